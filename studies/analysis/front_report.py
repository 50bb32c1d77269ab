"""The report on a study's front: its rows, and comparisons with random search and with the baselines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from studies.analysis.marks import Marks
from studies.analysis.standings import Standing, Standings
from studies.analysis.versus_baselines import VersusBaselines
from studies.analysis.versus_random import Comparison, compare
from studies.study import Study
from studies.study.trial_record import DONE, TrialRecord


@dataclass(frozen=True)
class FrontReport:
    """A study's front as of one reading of its trials.

    Attributes:
        every: whether all trained architectures are listed, not only the front and those near it.
        records: all trials, in order.
        marks: the knee, and what was picked.
    """

    study: Study
    every: bool
    records: list[TrialRecord]
    standings: Standings
    versus_random: Comparison
    versus_baselines: VersusBaselines
    marks: Marks

    @classmethod
    def of(cls, study: Study, every: bool = False) -> FrontReport:
        """Read the study and compare.

        Raises:
            UserError: the study can't be compared with a random search.
        """
        records = study.records()
        standings = Standings.of(study, records)
        rivals = compare(study, records)
        baselines = VersusBaselines(records, standings, study.space)
        return cls(study, every, records, standings, rivals, baselines, Marks.of(study, standings))

    @property
    def shown(self) -> list[TrialRecord]:
        """Trials of the table, in its order."""
        if self.every:
            return [record for record in self.records if record.state == DONE]
        return [row.record for row in self.standings.shown]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        standings, objectives = self.standings, self.study.space.objectives
        rows = [standings.standing(record) for record in self.shown] if self.every else standings.front
        return {
            "study": self.study.name,
            "objectives": {item.name: item.direction for item in objectives},
            "units": {item.name: item.metric.unit for item in objectives},
            "trained": sum(record.state == DONE for record in self.records),
            "states": dict(Counter(record.word for record in self.records)),
            "repeats": sum(record.repeated for record in self.records),
            "noise": standings.noise_dict(),
            "settled": standings.noise is not None and not standings.undecided,
            "p_whole_front": standings.p_whole,
            "versus_random": self.versus_random.to_dict(),
            "versus_baselines": self.versus_baselines.to_dict(),
            "front": list(map(self._row, rows)),
            "near_front": list(map(self._row, standings.near)),
        }

    def _row(self, row: Standing) -> dict[str, Any]:
        return {**self.standings.to_dict(row), **self.marks.to_dict(row.record)}
