"""Nothing but what was meant for it reaches standard output."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from studies.selection.quiet import quiet


def test_lines_from_c_are_discarded_and_others_kept(capfd: pytest.CaptureFixture[str]) -> None:
    library = ctypes.CDLL(None)
    print("before")
    with quiet():
        library.puts(b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();")
    print("after")
    assert capfd.readouterr().out == "before\nafter\n"


def test_an_error_inside_restores_the_output(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), quiet():
        raise KeyError
    print("after")
    assert capfd.readouterr().out == "after\n"


def test_a_process_without_standard_output_solves_too() -> None:
    code = "import os; os.close(1)\nfrom studies.selection.quiet import quiet\nwith quiet(): pass"
    subprocess.run([sys.executable, "-c", code], check=True)
