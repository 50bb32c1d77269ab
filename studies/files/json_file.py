"""JSON files that nas writes for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgery.config.json_source import read_object
from surgery.config.problems import Problem, UserError
from surgery.files.atomic import replacing


def write_json(path: Path, data: object) -> None:
    """Write JSON atomically, also across a crash of the machine."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(
    path: Path, hint: str = "restore it, or remove it and run the command again"
) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no such file.

    Args:
        path: the file.
        hint: what to do if it is damaged.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem(path.name, str(path), f"can't be read: {reason}", hint)
        raise UserError("a file that nas wrote is damaged", [problem]) from error
