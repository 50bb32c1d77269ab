"""Writing files given with --output."""

from __future__ import annotations

from pathlib import Path


def check_free(path: Path, option: str = "--output", what: str = "architecture") -> None:
    """Refuse a file that exists, before any work is done for it. What is no file, such as a pipe, is free.

    Raises:
        UserError: there is such a file.
    """
    from surgery.config.paths import expand
    from surgery.config.problems import Problem, UserError

    if expand(path).is_file():
        problem = Problem(option, str(path), "exists", "name another file, or add --overwrite")
        raise UserError(f"can't write the {what}", [problem])


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
