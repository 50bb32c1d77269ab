"""JSON from untrusted files: every fault of the text raises ValueError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgery.config.problems import Problems

MAX_DEPTH = 100  # objects and lists inside each other
MAX_DIGITS = 300  # of a whole number; still within the range of a float


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text (UTF-8, -16 or -32 if bytes).

    Raises:
        ValueError: not JSON, not Unicode, nested more than `MAX_DEPTH` levels deep (where `json.loads` raises
            RecursionError, as does printing the value later), or a number of more than `MAX_DIGITS` digits.
    """
    try:
        data = json.loads(text, parse_int=_parse_int)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(data)
    return data


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the object of a JSON text.

    Raises:
        ValueError: not JSON as for `parse_json`, or JSON of another kind, such as a list.
    """
    data = parse_json(text)
    if not isinstance(data, dict):
        raise ValueError("must hold an object")
    return data


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        OSError: the file can't be read.
        ValueError: it holds no JSON object.
    """
    return parse_object(path.read_bytes())


def try_object(path: Path, problems: Problems, hint: str = "") -> dict[str, Any] | None:
    """Return the object in a JSON file, or None.

    Returns:
        None if the file does not exist, or can't be used; the reason of the latter is added to `problems`.
    """
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problems.add(path.name, None, f"can't be read: {reason}", hint)
        return None


def kind_of(value: object) -> str:
    """Return the name of a parsed value's type, with its article."""
    words = {
        dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number",
        float: "a number",
    }  # fmt: skip
    return words.get(type(value), "null")


_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"holds a number of {len(digits):,} digits")
    return int(digits)


def _check_depth(data: object) -> None:
    level = [data]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += [value for value in item.values() if isinstance(value, dict | list)]
            elif isinstance(item, list):
                inner += [value for value in item if isinstance(value, dict | list)]
        if not inner:
            return
        level = inner
    raise ValueError(_TOO_DEEP)
