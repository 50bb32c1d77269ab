"""The interface of experiment trackers; each is one small file of this room, over an optional package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

Value = str | int | float | bool | None


class Run(Protocol):
    """One training in a tracker: its settings, its curve and its results."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values after an optimizer step; a later call has a later step."""
        ...

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """Record a table, whose rows have the same keys."""
        ...

    def finish(self, state: str, results: Mapping[str, float]) -> None:
        """Record how the training ended (`trained`, `paused`, `failed`) and what it reached, and close it."""
        ...


class Tracker(Protocol):
    """A store of runs. Built by its class from (where, project, mark).

    `where` is a folder or an address, `project` the name of what the runs belong to, and `mark` tells
    projects of the same name apart.
    """

    def start(self, name: str, settings: Mapping[str, Value]) -> Run:
        """Open the run of this name, the same one that an earlier process opened."""
        ...

    def close(self) -> None:
        """Write what is not written yet; runs that are not finished stay so."""
        ...


def markdown(rows: Sequence[Mapping[str, Value]]) -> str:
    """Return rows of the same keys as a Markdown table."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [["" if value is None else str(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
