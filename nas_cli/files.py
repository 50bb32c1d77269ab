"""Writing what a user asked for with --output."""

from __future__ import annotations

from pathlib import Path


def write_architecture(path: Path, text: str) -> None:
    """Raises:
    UserError: the file can't be written.
    """
    from surgery.problems import Problem, UserError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        problem = Problem("--output", str(path), error.strerror or str(error), "name a file you may write")
        raise UserError("can't write the architecture", [problem]) from error
