"""Writing files given with --output."""

from __future__ import annotations

from pathlib import Path


def write_plan(path: Path, text: str) -> None:
    """Write the file of a plan.

    Raises:
        UserError: the file can't be written, or exists and was not written by nas.
    """
    from surgery.files.outputs import output, signed

    with output(path, "--plan", "plan") as file:
        file.write_text(signed(text), encoding="utf-8")


def write_architecture(path: Path, text: str) -> None:
    """Write an architecture file.

    Raises:
        UserError: the file can't be written, or exists and was not written by nas.
    """
    from surgery.files.outputs import output, signed

    with output(path, "--output", "architecture") as file:
        file.write_text(signed(text), encoding="utf-8")
