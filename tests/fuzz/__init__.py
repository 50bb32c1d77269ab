"""Commands of `nas` on broken inputs: none may answer with a traceback, late, or with half an output.

    python -m tests.fuzz 1500 --seed 0            all kinds in turn and a table; exit 1 if any failed
    python -m tests.fuzz --replay 0:117           one case again, its output on the screen

A case is decided by its seed and number alone. Each command runs in a fork of a process that has loaded
PyTorch, transformers and Optuna, as its own session, in a folder of its own that holds mutated copies of
small valid inputs.
"""
