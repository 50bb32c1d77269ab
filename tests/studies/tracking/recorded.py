"""A tracker in memory, in place of every real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from studies.tracking.choice import Choice
from studies.tracking.tracker import Value


@dataclass
class Recorded:
    """One run of the tracker, and every time that it was opened again."""

    settings: Mapping[str, Value]
    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    tables: dict[str, list[Mapping[str, Value]]] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    results: Mapping[str, float] = field(default_factory=dict)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        assert not self.points or step > self.points[-1][0]
        self.points.append((step, dict(values)))

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        self.tables[name] = list(rows)

    def finish(self, state: str, results: Mapping[str, float]) -> None:
        self.states.append(state)
        self.results = results


class Memory:
    """A tracker that keeps its runs."""

    def __init__(self) -> None:
        self.runs: dict[str, Recorded] = {}
        self.starts: list[str] = []
        self.closed = 0

    def start(self, name: str, settings: Mapping[str, Value]) -> Recorded:
        self.starts.append(name)
        return self.runs.setdefault(name, Recorded(settings))

    def close(self) -> None:
        self.closed += 1

    @classmethod
    def replacing(cls, monkeypatch: pytest.MonkeyPatch) -> Memory:
        """Return a tracker that every choice opens."""
        memory = cls()

        def open_it(choice: Choice, folder: Path, project: str, mark: str) -> Memory:
            return memory

        monkeypatch.setattr(Choice, "open", open_it)
        return memory
