"""User errors: collected while reading input, reported together, each with a suggested fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

LONGEST = 100  # characters of a value in a message


def is_unicode(text: str) -> bool:
    """Return whether `text` can be encoded as UTF-8; a file name of other bytes can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """Return `text` fit for one line of a terminal: control characters and half surrogate pairs escaped."""
    return text if text.isprintable() else repr(text)[1:-1]


@dataclass(frozen=True)
class Problem:
    """One user error: the field, its value, the rule it breaks and a suggested fix."""

    field: str
    value: object
    rule: str
    hint: str = ""
    line: int | None = None

    @property
    def name(self) -> str:
        """Name of the field on one line, shortened in the middle; a user's key may be any text."""
        text = printable(self.field)
        return text if len(text) <= 2 * LONGEST else f"{text[:LONGEST]}…{text[-LONGEST:]}"

    @property
    def shown(self) -> str:
        """The value on one line, shortened in the middle: the end of a path is the most informative."""
        text = repr(self.value) if isinstance(self.value, str) else printable(str(self.value))
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 4]}…{text[-LONGEST * 3 // 4 :]}"

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        value = "" if self.value is None else f" = {self.shown}"
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.name}{value}: {self.rule}{hint}"


class UserError(ValueError):
    """Error of a request that can't be carried out; nothing was changed. Lists every problem."""

    def __init__(self, title: str, problems: Iterable[Problem] = ()) -> None:
        self.title = title
        self.problems = tuple(problems)
        super().__init__("\n".join([title, *(f"  - {problem}" for problem in self.problems)]))

    def __reduce__(self) -> tuple[type[UserError], tuple[str, tuple[Problem, ...]]]:
        return (type(self), (self.title, self.problems))  # picklable


@dataclass
class Problems:
    """Collector of problems, so that a user sees all of them and not only the first."""

    entries: list[Problem] = field(default_factory=list)

    def add(self, field: str, value: object, rule: str, hint: str = "", line: int | None = None) -> None:
        """Add a problem."""
        self.entries.append(Problem(field, value, rule, hint, line))

    def __bool__(self) -> bool:
        return bool(self.entries)

    def raise_if_any(self, title: str) -> None:
        """Raise a `UserError` of all problems if there are any.

        Raises:
            UserError: at least one problem was collected.
        """
        if self.entries:
            raise UserError(title, self.entries)


def nearest(word: str, options: Iterable[str]) -> str:
    """Return `did you mean "x"?` for the closest of the allowed spellings, or an empty string."""
    close = difflib.get_close_matches(str(word), [str(option) for option in options], n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""
