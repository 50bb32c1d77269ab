"""The studies of a folder, each in a few facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from studies.study.leases import statuses
from studies.study.lookup import list_studies
from studies.study.study import Study
from surgery.config.problems import UserError


@dataclass(frozen=True)
class Overview:
    """A study in a few facts.

    Attributes:
        model: the pretrained model whose parts are replaced; None: architectures are trained from scratch.
        states: number of trials by state.
        objective: the first one.
        best: the best value in it on the front, the original model left out, and `trial`, which has it; None
            while there is no front.
        workers: that are alive here.
        last: when a trial began or ended last.
        problem: why the study can't be read; empty if it can.
    """

    name: str
    model: str | None = None
    states: Mapping[str, int] = field(default_factory=dict)
    objective: str = ""
    best: float | None = None
    trial: int | None = None
    workers: int = 0
    last: datetime | None = None
    problem: str = ""

    @classmethod
    def of(cls, study: Study) -> Overview:
        """Return the overview of an open study."""
        space = study.space
        first = space.objectives[0]
        original = None if space.model is None else space.model.architecture.hash  # its own distance is 0
        front = [record for record in study.front() if record.hash != original]
        values = {record.number: record.values[0] for record in front if record.values}
        choose = min if first.direction == "min" else max
        trial = choose(values, key=values.__getitem__) if values else None
        trials = study.inner.get_trials(deepcopy=False)
        times = [when for item in trials if (when := item.datetime_complete or item.datetime_start)]
        return cls(
            study.name,
            None if space.model is None else space.model.name,
            dict(Counter(record.word for record in study.records())),
            first.name,
            None if trial is None else values[trial],
            trial,
            len(statuses(study.workers_folder)),
            max(times).astimezone(UTC) if times else None,  # Optuna's times are local ones
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        last = None if self.last is None else self.last.isoformat(timespec="seconds")
        return {**asdict(self), "states": dict(self.states), "last": last, "problem": self.problem or None}


def overviews(runs: Path) -> list[Overview]:
    """Return the studies of a folder, those that were active last first; what can't be read has a problem."""
    listed = []
    for name in list_studies(runs):
        try:
            listed.append(Overview.of(Study.open(name, runs)))
        except UserError as error:
            listed.append(Overview(name, problem="; ".join([error.title, *map(str, error.problems)])))
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(listed, key=lambda item: (item.last or oldest, item.name), reverse=True)
