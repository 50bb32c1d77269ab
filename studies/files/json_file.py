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


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        problem = Problem(
            "folder", str(path), f"can't be read: {error}", "remove the folder and prepare again"
        )
        raise UserError("Prepared data is damaged", [problem]) from error
