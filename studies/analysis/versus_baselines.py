"""Comparison of searched architectures with the papers' own designs (baselines) at no more cost.

Many comparisons are made: of every baseline with all architectures that cost no more, and again after every
run. The best of them may be best by chance, so the bounds of all leads hold together
(`studies.stats.simultaneous`), at a level that leaves room for being watched. The rival with the highest
lower bound represents the others, and that bound is what its lead is *at least*: the plain difference is too
large, since the rival was chosen for it. Nothing is decided before the noise is known and both ran twice.

Costs are exact: those that the study minimises or limits, and the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces import SearchSpace
from search_spaces.objectives import Objective
from studies.analysis.standings import Standings
from studies.stats.seeds import derive_seed
from studies.stats.simultaneous import simultaneous_factor
from studies.study.trial_record import DONE, TrialRecord

# Probability that a bound is wrong somewhere, at a single look. Refining looks after every run, some 70 times
# for eight baselines, which makes a wrong verdict three times as likely (simulated, see the tests).
ERROR = 0.01
FEWEST_DF = 6  # degrees of freedom of the noise: a smaller sample of it is too small too often
FEWEST_RUNS = 2  # of a baseline, and of a rival that beats it

BEATEN, NOT_BEATEN, UNKNOWN, NO_RIVAL = "beaten", "not beaten", "can't tell yet", "nothing costs as little"

_MOST_NAMES = 5  # baselines named in a sentence
_NEVER_NEGATIVE = ("kl", "retrieval_kl")
_ZERO = 1e-6  # nats/token: of the original itself, but for rounding


@dataclass(frozen=True)
class Duel:
    """A baseline against the searched architectures that cost no more.

    Attributes:
        rival: architecture with the highest lower bound of its lead; None if none costs as little.
        rivals: number of architectures that cost no more.
        ahead: lead of the rival's result, positive if it is better, in the objective's unit.
        half: half width of that lead's interval; its ends hold for all baselines and rivals together. None
            without replicates.
        outcome: BEATEN if the rival's interval is above 0, NOT_BEATEN if those of all rivals are below 0,
            given enough runs.
    """

    baseline: TrialRecord
    rival: TrialRecord | None
    rivals: int
    ahead: float | None
    half: float | None
    outcome: str

    @property
    def verdict(self) -> str:
        """The outcome; where it is open, what the single runs say, or that a clear lead rests on too few."""
        if self.outcome == UNKNOWN and (self.at_least or 0.0) > 0:
            return f"{UNKNOWN}: too few runs"
        if self.outcome != UNKNOWN or self.half is not None or self.ahead is None:
            return self.outcome
        return f"{'ahead' if self.ahead > 0 else 'behind'} by one run each: {UNKNOWN}"

    @property
    def at_least(self) -> float | None:
        """Lower end of the lead's interval; negative if the rival may be worse, None without replicates."""
        return None if self.ahead is None or self.half is None else self.ahead - self.half


class VersusBaselines:
    """Comparisons for every trained baseline of a study, in its order.

    Attributes:
        column: index of the compared objective.
        objective: the compared objective: the first one that is measured by training.
        costs: names of the metrics in which a rival is no worse; True if less is better.
        factor: standard errors in the half width of every lead; None without replicates.
        duels: the comparisons.
    """

    def __init__(self, records: Sequence[TrialRecord], standings: Standings, space: SearchSpace) -> None:
        self.standings = standings
        self.column = next(index for index, item in enumerate(space.objectives) if item.measured)
        self.objective: Objective = space.objectives[self.column]
        self.costs = costs_of(space)
        trained = [record for record in records if record.state == DONE and record.values]
        searched = [record for record in trained if record.baseline is None and record.feasible]
        pairs = [
            (record, [other for other in searched if self._costs_no_more(other, record)])
            for record in trained
            if record.baseline is not None
        ]
        self.factor = self._factor(pairs)
        self._nothing = ""
        if not searched:
            others = any(record.baseline is None for record in trained)
            self._nothing = "meets the constraints" if others else f"is {space.done_word} yet"
        self.duels = [self._duel(record, rivals) for record, rivals in pairs]

    @property
    def alone(self) -> bool:
        """True if there is nothing to compare the baselines with."""
        return bool(self._nothing)

    @property
    def undecided(self) -> bool:
        """True if more runs may tell whether a baseline is beaten."""
        return any(duel.outcome == UNKNOWN for duel in self.duels)

    def summary(self, command: str = "") -> str:
        """Return which baselines are beaten, which are not told apart yet, and what to do then.

        Args:
            command: what trains the closest ones again, such as `nas refine demo`; not named if empty.
        """
        if self._nothing:
            return f"Nothing that was searched {self._nothing}."
        open_ = [duel for duel in self.duels if duel.outcome == UNKNOWN]
        once = [duel for duel in open_ if duel.half is None]
        again = [duel for duel in open_ if duel.half is not None]
        alone = [duel for duel in self.duels if duel.outcome == NO_RIVAL]
        texts = (
            ("beaten at no higher cost: {}", [duel for duel in self.duels if duel.outcome == BEATEN]),
            ("ahead of {} at no higher cost", [duel for duel in once if (duel.ahead or 0.0) > 0]),
            ("behind {}", [duel for duel in once if (duel.ahead or 0.0) <= 0]),
            ("not told apart yet: {}", again),
            ("not beaten: {}", [duel for duel in self.duels if duel.outcome == NOT_BEATEN]),
            ("nothing that was searched costs as little as {}", alone if len(alone) <= _MOST_NAMES else []),
        )
        text = "; ".join(form.format(self._listed(duels)) for form, duels in texts if duels)
        if len(alone) > _MOST_NAMES:
            text += f"{'; ' if text else ''}nothing that was searched costs as little as {len(alone)} of them"
        text = f"{text[:1].upper()}{text[1:]}."
        if once:
            text += " Ahead and behind by one run each: not told apart from noise yet."
        return f"{text} {command} runs the closest ones again." if self.undecided and command else text

    def _listed(self, duels: Sequence[Duel]) -> str:
        names = [self.standings.names.name(duel.baseline) for duel in duels[:_MOST_NAMES]]
        more = len(duels) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")

    def to_dict(self) -> list[dict[str, Any]]:
        """Return stable JSON values for `--json`."""
        return [self._to_json(duel) for duel in self.duels]

    def value(self, record: TrialRecord) -> float:
        """Return the mean over a trial's runs in the compared objective."""
        assert record.values is not None
        return record.values[self.column]

    def _to_json(self, duel: Duel) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "baseline": duel.baseline.baseline,
            "number": duel.baseline.number,
            self.objective.name: self.value(duel.baseline),
            "outcome": duel.outcome,
            "cost_no_more": duel.rivals,
            "costs": list(self.costs),
            "rival": None,
        }
        if duel.rival is not None and duel.ahead is not None:
            entry["rival"] = {
                "number": duel.rival.number,
                "architecture": duel.rival.line,
                self.objective.name: self.value(duel.rival),
                "ahead": duel.ahead,
                "at_least": duel.at_least,
                "interval": None if duel.half is None else [duel.ahead - duel.half, duel.ahead + duel.half],
                "costs": {name: duel.rival.metrics[name] for name in self.costs},
            }
        return entry

    def _factor(self, pairs: Sequence[tuple[TrialRecord, Sequence[TrialRecord]]]) -> float | None:
        noise = self.standings.noise
        pairs = [(baseline, rivals) for baseline, rivals in pairs if rivals]
        if noise is None or not pairs:
            return None
        records = {record.number: record for baseline, rivals in pairs for record in (baseline, *rivals)}
        rows = {number: row for row, number in enumerate(records)}
        runs = np.array([len(record.runs) for record in records.values()])
        differences = [
            (rows[baseline.number], np.array([rows[record.number] for record in rivals]))
            for baseline, rivals in pairs
        ]
        seed = derive_seed("duels", len(runs), int(runs.sum()))
        return simultaneous_factor(runs, differences, noise.df, 1 - ERROR, seed)

    def _duel(self, baseline: TrialRecord, rivals: Sequence[TrialRecord]) -> Duel:
        if not rivals:
            return Duel(baseline, None, 0, None, None, NO_RIVAL)
        ahead = [self._ahead(record, baseline) for record in rivals]
        halves = [self._half(record, baseline) for record in rivals]
        lows = [gap - (half or 0.0) for gap, half in zip(ahead, halves, strict=True)]
        best = max(range(len(rivals)), key=lambda index: (lows[index], -rivals[index].number))
        outcome, noise = UNKNOWN, self.standings.noise
        if self.objective.name in _NEVER_NEGATIVE and self.value(baseline) < _ZERO:
            outcome = NOT_BEATEN  # the original itself
        elif noise is not None and noise.df >= FEWEST_DF and len(baseline.runs) >= FEWEST_RUNS:
            if lows[best] > 0 and len(rivals[best].runs) >= FEWEST_RUNS:
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

    def _half(self, record: TrialRecord, baseline: TrialRecord) -> float | None:
        return self.standings.half_of_gap(record, baseline, self.column, self.factor)


def costs_of(space: SearchSpace) -> dict[str, bool]:
    """Return the exact metrics that a study optimises or limits; True if less is better.

    And params, but not where parts of a pretrained model are replaced: mixers of a lower cost may have more.
    """
    limited = {item.name: item.metric.better == "min" for item in space.constraints}
    wanted = {item.name: item.direction == "min" for item in space.objectives if not item.measured}
    own = {"params": True} if space.model is None else {}
    return own | limited | wanted
