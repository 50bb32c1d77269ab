"""Imports of large packages: quickly, and with a word on the screen meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from nas_cli.render.screen import starting


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without looking for garbage, now or at the end of the process, in what lives as long as it does.

    With transformers that is a third of the time, more than a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def load_torch() -> None:
    """Load PyTorch, which takes seconds; a terminal says so meanwhile."""
    with starting("loading PyTorch"):
        import_module("torch")
