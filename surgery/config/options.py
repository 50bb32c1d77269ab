"""Typed options: the allowed values of a field, checked by the same code for every file of a user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.config.problems import Problems, nearest
from surgery.config.yaml_source import KeyPath, Source

REQUIRED = object()
LARGEST = 2**31 - 1  # largest whole number of a field that declares no upper bound


@dataclass(frozen=True)
class Option:
    """One field: its type, default and inclusive bounds.

    `help` gives its meaning and unit. `scales` is `width` or `context` for a size that is in proportion to
    that of the model, as in designs for any size.
    """

    kind: type
    default: Any = REQUIRED
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    help: str = ""
    scales: str = ""

    def read(self, value: object) -> Any:
        """Return the value converted to the field's type.

        Raises:
            ValueError: the value breaks a rule, which is the message.
        """
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError("must be true or false")
            return value
        if self.kind is str:
            if not isinstance(value, str) and not self.choices:
                raise ValueError("must be text")
            if self.choices and value not in self.choices:
                hint = nearest(str(value), self.choices)
                raise ValueError(f"must be one of {', '.join(self.choices)}{'; ' + hint if hint else ''}")
            return value
        return self._number(value)

    def _number(self, value: object) -> int | float:
        word = "whole number" if self.kind is int else "number"
        if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
            raise ValueError(f"must be a {word}")
        if self.kind is int and value != int(value):
            raise ValueError(f"must be a {word}")
        if self.low is not None and value < self.low:
            raise ValueError(f"must be at least {self.low:g}")
        high = LARGEST if self.high is None and self.kind is int else self.high
        if high is not None and value > high:
            raise ValueError(f"must be at most {high}" if self.kind is int else f"must be at most {high:g}")
        return int(value) if self.kind is int else float(value)


def is_finite(value: float) -> bool:
    """Return whether a number is finite, not NaN, and within the range of a float."""
    return abs(value) < 1e300


@dataclass(frozen=True)
class Cursor:
    """Position in a user's file, for messages, and the collector of its problems."""

    problems: Problems
    source: Source | None = None
    path: KeyPath = ()

    def at(self, *keys: str | int) -> Cursor:
        """Return a cursor at a nested key."""
        return Cursor(self.problems, self.source, (*self.path, *keys))

    @property
    def name(self) -> str:
        """The position as text, such as `projections[0].blocks`."""
        text = ""
        for key in self.path:
            text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
        return text or "file"

    def problem(self, value: object, rule: str, hint: str = "") -> None:
        """Add a problem at this position."""
        line = self.source.line(self.path) if self.source else None
        self.problems.add(self.name, value, rule, hint, line)

    def mapping(
        self, value: object, known: Mapping[str, Any] | tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        """Return `value` as a dict of its known keys; unknown keys and other types are added as problems."""
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.problem(value, "must be a mapping of fields")
            return {}
        result: dict[str, Any] = {}
        for key, item in value.items():
            if known is not None and key not in known:
                hint = nearest(str(key), known) or f"known: {', '.join(known)}"
                self.at(str(key)).problem(None, "is not a field here", hint)
            else:
                result[str(key)] = item
        return result


def read_options(data: object, schema: Mapping[str, Option], cursor: Cursor) -> dict[str, Any]:
    """Read every field of `schema` from a user's mapping, with defaults; errors are added as problems."""
    given = cursor.mapping(data, schema)
    result: dict[str, Any] = {}
    for name, option in schema.items():
        if name not in given:
            if option.default is REQUIRED:
                cursor.at(name).problem(None, "is missing", option.help)
            else:
                result[name] = option.default
            continue
        try:
            result[name] = option.read(given[name])
        except ValueError as error:
            cursor.at(name).problem(given[name], str(error), option.help)
    return result
