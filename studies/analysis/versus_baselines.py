"""Has what was found beaten the papers' own designs? Each against the architectures that cost no more.

Among k architectures one is the best by luck alone, so every difference gets an interval that is wide enough
for all k together to hold with the level of a single one (Bonferroni), and the one whose interval lies
highest speaks for them. Costs are exact: those that the study minimises or limits, and the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces import SearchSpace
from search_spaces.objectives import Objective
from studies.analysis.standings import Standings
from studies.stats.seed_noise import LEVEL
from studies.study.trial_record import DONE, TrialRecord

BEATEN, NOT_BEATEN, UNKNOWN, NO_RIVAL = "beaten", "not beaten", "can't tell yet", "nothing costs as little"


@dataclass(frozen=True)
class Duel:
    """A paper's design against what was found at no more cost.

    Attributes:
        rival: the found architecture that is ahead most surely; None where none costs as little.
        rivals: how many cost no more.
        ahead: by how much the rival's result is better, in the objective's unit.
        half: half width of the interval of that; None where nothing was trained twice.
        outcome: BEATEN where the interval says that the rival is better, NOT_BEATEN where those of all rivals
            say that they are worse.
    """

    baseline: TrialRecord
    rival: TrialRecord | None
    rivals: int
    ahead: float | None
    half: float | None
    outcome: str


class VersusBaselines:
    """Every trained baseline of a study, in its order.

    Attributes:
        objective: what is compared: the first objective that only training tells.
        costs: names of the metrics in which a rival is no worse; True where less is better.
    """

    def __init__(self, records: Sequence[TrialRecord], standings: Standings, space: SearchSpace) -> None:
        self.standings = standings
        self.place = next(place for place, item in enumerate(space.objectives) if item.measured)
        self.objective: Objective = space.objectives[self.place]
        self.costs = costs_of(space)
        trained = [record for record in records if record.state == DONE and record.values]
        found = [record for record in trained if record.baseline is None and record.feasible]
        self.duels = [self._duel(record, found) for record in trained if record.baseline is not None]

    def to_dict(self) -> list[dict[str, Any]]:
        """For `--json`; stable."""
        return [self._told(duel) for duel in self.duels]

    def value(self, record: TrialRecord) -> float:
        """The mean of its runs in the objective that is compared."""
        assert record.values is not None
        return record.values[self.place]

    def _told(self, duel: Duel) -> dict[str, Any]:
        told: dict[str, Any] = {
            "baseline": duel.baseline.baseline,
            "number": duel.baseline.number,
            self.objective.name: self.value(duel.baseline),
            "outcome": duel.outcome,
            "cost_no_more": duel.rivals,
            "costs": list(self.costs),
            "rival": None,
        }
        if duel.rival is not None and duel.ahead is not None:
            told["rival"] = {
                "number": duel.rival.number,
                "architecture": duel.rival.line,
                self.objective.name: self.value(duel.rival),
                "ahead": duel.ahead,
                "interval": None if duel.half is None else [duel.ahead - duel.half, duel.ahead + duel.half],
                "costs": {name: duel.rival.metrics[name] for name in self.costs},
            }
        return told

    def _duel(self, baseline: TrialRecord, found: Sequence[TrialRecord]) -> Duel:
        rivals = [record for record in found if self._costs_no_more(record, baseline)]
        if not rivals:
            return Duel(baseline, None, 0, None, None, NO_RIVAL)
        ahead = [self._ahead(record, baseline) for record in rivals]
        halves = [self._half(record, baseline, len(rivals)) for record in rivals]
        lows = [gap - (half or 0.0) for gap, half in zip(ahead, halves, strict=True)]
        best = max(range(len(rivals)), key=lambda index: (lows[index], -rivals[index].number))
        outcome = UNKNOWN
        if halves[best] is not None and lows[best] > 0:
            outcome = BEATEN
        elif all(half is not None and gap + half < 0 for gap, half in zip(ahead, halves, strict=True)):
            outcome = NOT_BEATEN
        return Duel(baseline, rivals[best], len(rivals), ahead[best], halves[best], outcome)

    def _costs_no_more(self, record: TrialRecord, baseline: TrialRecord) -> bool:
        return all(
            record.metrics[name] <= baseline.metrics[name]
            if less
            else record.metrics[name] >= baseline.metrics[name]
            for name, less in self.costs.items()
        )

    def _ahead(self, record: TrialRecord, baseline: TrialRecord) -> float:
        sign = 1 if self.objective.direction == "min" else -1
        return sign * (self.value(baseline) - self.value(record))

    def _half(self, record: TrialRecord, baseline: TrialRecord, rivals: int) -> float | None:
        noise = self.standings.noise
        if noise is None:
            return None
        level = 1 - (1 - LEVEL) / rivals
        widths = noise.difference(len(record.runs), len(baseline.runs), level)
        return float(widths[self.standings.measured.index(self.place)])


def costs_of(space: SearchSpace) -> dict[str, bool]:
    """Exact metrics by name that a study has a say in, and whether less is better."""
    limited = {item.name: item.metric.better == "min" for item in space.constraints}
    wanted = {item.name: item.direction == "min" for item in space.objectives if not item.measured}
    return {"params": True} | limited | wanted
