"""JSON files that others wrote: read as an object, or reported with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgery.problems import Problems


def read_object(path: Path, problems: Problems, hint: str = "") -> dict[str, Any] | None:
    """Read a file that must hold a JSON object.

    Returns:
        None if there is no such file, and if it can't be used: the reason is then added to `problems`.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except RecursionError:
        problems.add(path.name, None, "is broken: nested too deeply", hint)
        return None
    except (OSError, ValueError) as error:  # ValueError: not JSON, or not UTF-8
        reason = getattr(error, "strerror", None) or str(error)
        problems.add(path.name, None, f"is broken: {reason}", hint)
        return None
    if not isinstance(data, dict):
        problems.add(path.name, kind_of(data), "must hold an object of fields, {...}", hint)
        return None
    return data


def kind_of(value: object) -> str:
    """Return JSON's word for the type of a parsed value."""
    words = {
        dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number",
        float: "a number",
    }  # fmt: skip
    return words.get(type(value), "null")
