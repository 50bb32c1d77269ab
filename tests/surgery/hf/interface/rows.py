"""The rows of the interface table, as one declarative list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.surgery.hf.interface.cases import COLUMNS, Case

Check = Callable[[Case], None]


@dataclass(frozen=True)
class Row:
    """An argument, what is done with it, and in which columns it is followed or refused.

    Attributes:
        group: the part of the interface.
        argument: as it is spelled in a call.
        check: does it, and fails where the numbers are not equal. Where the argument is refused it must
            raise a ValueError.
        what: how equality is shown, or why the argument is refused; for the page.
        refused: a pattern of the error's message; "" where the argument is followed.
        columns: those in which it is refused; by default all or none.
        needs: a package that is not always installed.
    """

    group: str
    argument: str
    check: Check
    what: str
    refused: str = ""
    columns: tuple[str, ...] = COLUMNS
    needs: str = ""

    @property
    def name(self) -> str:
        return f"{self.group}: {self.argument}"

    def refuses(self, column: str) -> bool:
        return bool(self.refused) and column in self.columns


def rows() -> list[Row]:
    """All rows, group by group."""
    from tests.surgery.hf.interface import adapters, forward, generation, loading, tools, training

    parts = (forward, generation, training, adapters, loading, tools)
    return [row for part in parts for row in part.ROWS]
