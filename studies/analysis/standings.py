"""Standings of trained architectures: results with intervals, probabilities of being on the front, ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.objectives import Objective
from studies.stats.front_probability import FrontProbability
from studies.stats.seed_noise import Array, Coverage, Noise, coverage, pool
from studies.stats.seeds import derive_seed
from studies.study.replicates import mean_values
from studies.study.trial_names import Names
from studies.study.trial_record import DONE, TrialRecord, front_records

if TYPE_CHECKING:
    from studies.study import Study

ORIGINAL = "original"  # a pretrained model itself: its KL is 0 on every text, which says nothing of the noise
# objectives whose noise grows with their value: a KL divergence of 0.5 nats/token differs more between texts
# than one of 0.01. Their logarithms are what has one standard deviation for all architectures.
RELATIVE = ("kl",)
SMALLEST = 1e-9  # of such an objective, for its logarithm
MAYBE, SURE = 0.1, 0.9  # probabilities between which it is undecided whether an architecture is on the front


@dataclass(frozen=True)
class Confirmation:
    """Mean of fresh runs that had no part in choosing an architecture.

    Attributes:
        runs: number of them.
        values: their means, one per objective.
        half: half width of the 90 % interval of the mean; None for exact objectives.
    """

    runs: int
    values: tuple[float, ...]
    half: tuple[float | None, ...]

    def describe(self, objectives: Sequence[Objective]) -> str:
        """Return `val_loss 3.4312 ±0.0123 by 3 runs that had no part in the choice`."""
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        return f"{self.results(objectives)} by {runs} that had no part in the choice"

    def results(self, objectives: Sequence[Objective]) -> str:
        """Return `val_loss 3.4312 ±0.0123`."""
        return ", ".join(
            f"{item.name} {item.metric.format(value)} ±{item.metric.format(half)}"
            for item, value, half in zip(objectives, self.values, self.half, strict=True)
            if half is not None
        )


@dataclass(frozen=True)
class Standing:
    """The standing of one architecture.

    Attributes:
        on_front: whether it is on the front of the means over runs.
        p_front: probability that its true means are on the true front; None without replicates.
        half: half width of the 90 % interval of its mean, one per objective; None for exact objectives. The
            interval holds for an architecture that was not chosen for its result.
        fresh: likewise for the result of one more seed.
        confirmed: result of fresh runs, which holds for one that was; None without.
    """

    record: TrialRecord
    on_front: bool
    p_front: float | None
    half: tuple[float | None, ...]
    fresh: tuple[float | None, ...]
    confirmed: Confirmation | None = None

    @property
    def runs(self) -> int:
        """Number of its runs."""
        return len(self.record.runs)

    @property
    def undecided(self) -> bool:
        """True if the runs so far leave open whether it is on the front."""
        return self.p_front is not None and MAYBE < self.p_front < SURE


class Standings:
    """All trained architectures that meet the constraints, best first in the first objective.

    Attributes:
        noise: seed noise of one run in the measured objectives, in logarithms of those in RELATIVE; None
            without replicates.
        coverage: coverage of the intervals on held-out replicates, by measured objective.
        measured: columns of the objectives that are measured by training.
        repeated: number of architectures with more than one run.
        rows: the standings.
        names: of the trials, as they are shown.
    """

    def __init__(
        self,
        records: Sequence[TrialRecord],
        objectives: Sequence[Objective],
        seed: int,
        names: Names | None = None,
    ) -> None:
        self.objectives = tuple(objectives)
        self.names = names or Names()
        self.measured = [column for column, item in enumerate(objectives) if item.measured]
        self._exact = [column for column, item in enumerate(objectives) if not item.measured]
        trained = [record for record in records if record.state == DONE and record.values]
        self.relative = np.array(
            [objectives[column].name in RELATIVE for column in self.measured], dtype=bool
        )
        tables = [self._scaled(_table(record)[:, self.measured]) for record in trained]
        self.noise: Noise | None = pool(tables)
        self.coverage: dict[str, Coverage] = {
            objectives[column].name: coverage([table[:, index] for table in tables], skip=1)
            for index, column in enumerate(self.measured)
        }
        self.repeated = sum(len(table) > 1 for table in tables)
        feasible = [record for record in trained if record.feasible]
        sign = 1 if objectives[0].direction == "min" else -1
        feasible.sort(key=lambda record: sign * record.values[0] if record.values else 0.0)
        self.membership = self._membership(feasible, seed)
        best = {record.number for record in front_records(feasible, self.objectives)}
        self.rows = [
            self._standing(record, index, on_front=record.number in best)
            for index, record in enumerate(feasible)
        ]

    @classmethod
    def of(cls, study: Study, records: Sequence[TrialRecord] | None = None) -> Standings:
        """Return the standings of a study's records, or of a snapshot of them."""
        seed = derive_seed(study.settings.seed, "front")
        known = study.records() if records is None else records
        return cls(known, study.space.objectives, seed, Names(study.space))

    @property
    def front(self) -> list[Standing]:
        """The front of the means."""
        return [row for row in self.rows if row.on_front]

    @property
    def best(self) -> list[Standing]:
        """The best of the front in each measured objective, apart from the pretrained model itself."""
        best = []
        rows = [row for row in self.front if row.record.baseline != ORIGINAL]
        for column in self.measured if rows else ():
            sign = 1 if self.objectives[column].direction == "min" else -1
            best.append(min(rows, key=lambda row: sign * row.record.values[column]))  # type: ignore[index]
        return best

    @property
    def p_whole(self) -> float | None:
        """Probability that the front of the means is the true one, with no other and none missing.

        None without replicates. It is smaller than that of any of its architectures: each may be right nine
        times in ten, and all together only half the time.
        """
        if self.membership is None:
            return None
        return self.membership.whole([index for index, row in enumerate(self.rows) if row.on_front])

    @property
    def near(self) -> list[Standing]:
        """Architectures not on the front of the means, but possibly on the true front."""
        return [row for row in self.rows if not row.on_front and (row.p_front or 0.0) > MAYBE]

    @property
    def shown(self) -> list[Standing]:
        """Architectures on the front of the means or possibly on the true one, in order."""
        return [row for row in self.rows if row.on_front or (row.p_front or 0.0) > MAYBE]

    @property
    def undecided(self) -> list[Standing]:
        """Architectures that more runs could move onto the front or off it."""
        return [row for row in self.rows if row.undecided]

    def standing(self, record: TrialRecord) -> Standing:
        """Return the standing of any trial; an untrained or infeasible one is never on the front."""
        known = (row for row in self.rows if row.record.number == record.number)
        return next(known, None) or self._standing(record, None, on_front=False)

    def gap(self, one: Standing, other: Standing, column: int) -> tuple[float, float | None]:
        """Return the difference of two architectures in an objective, and its interval's half width.

        The half width is None for an exact objective and without replicates.
        """
        assert one.record.values is not None
        assert other.record.values is not None
        difference = abs(one.record.values[column] - other.record.values[column])
        return difference, self.half_of_gap(one.record, other.record, column)

    def half_of_gap(
        self, one: TrialRecord, other: TrialRecord, column: int, factor: float | None = None
    ) -> float | None:
        """Return the half width of the interval of two architectures' difference in an objective.

        It has `factor` standard errors, by default those of a single 90 % interval. None for an exact
        objective and without replicates. Where noise is relative, a difference is within it if and only if
        the ratio of both is.
        """
        if self.noise is None or column not in self.measured:
            return None
        index = self.measured.index(column)
        half = float(self.noise.difference(len(one.runs), len(other.runs), factor)[index])
        if not self.relative[index]:
            return half
        assert one.values is not None
        assert other.values is not None
        return max(one.values[column], other.values[column]) * -math.expm1(-half)

    def tied(self, one: Standing, other: Standing) -> bool:
        """Return whether every difference in a measured objective is within its 90 % interval.

        Then the runs do not tell both apart; that they are equal is not shown.
        """
        gaps = [self.gap(one, other, column) for column in self.measured]
        return all(half is not None and difference <= half for difference, half in gaps)

    def ties(self, row: Standing) -> list[Standing]:
        """Return the shown architectures that the runs do not tell apart from `row`."""
        if not row.runs:
            return []
        return [other for other in self.shown if other.record is not row.record and self.tied(row, other)]

    def rivals(self, row: Standing) -> list[Standing]:
        """Return the architectures that cost no more and may be no worse, which may dominate `row`."""
        if self.membership is None:
            return []
        return [self.rows[index] for index in self.membership.rivals(self.rows.index(row), MAYBE)]

    def to_dict(self, row: Standing) -> dict[str, Any]:
        """Return stable JSON values for `--json`. Intervals are [low, high], for measured objectives."""
        measured = [self.objectives[column].name for column in self.measured]
        return {
            **row.record.to_dict(),
            "on_front": row.on_front,
            "p_front": row.p_front,
            "undecided": row.undecided,
            "intervals": {name: self._interval(row.record.values, row.half, name) for name in measured},
            "fresh_intervals": {
                name: self._interval(row.record.values, row.fresh, name) for name in measured
            },
            "confirmed": None if row.confirmed is None else self._confirmed_dict(row.confirmed, measured),
            "ties": [other.record.number for other in self.ties(row)],
        }

    def noise_dict(self) -> dict[str, Any] | None:
        """Return the estimated seed noise for `--json`; None without replicates."""
        if self.noise is None:
            return None
        names = [self.objectives[column].name for column in self.measured]
        return {
            "sd": dict(zip(names, map(float, self.noise.sd), strict=True)),
            "degrees_of_freedom": self.noise.df,
            "repeated_architectures": self.repeated,
            "coverage": {
                name: {"covered": item.covered, "held_out": item.held_out}
                for name, item in self.coverage.items()
            },
        }

    def _column(self, name: str) -> int:
        return next(column for column, item in enumerate(self.objectives) if item.name == name)

    def _membership(self, records: Sequence[TrialRecord], seed: int) -> FrontProbability | None:
        if self.noise is None or not records:
            return None
        signs = np.array([1.0 if item.direction == "min" else -1.0 for item in self.objectives])
        raw = np.array([record.values for record in records], dtype=np.float64)
        values = raw * signs
        measured = self._scaled(raw[:, self.measured]) * signs[self.measured]
        flip = np.outer(signs[self.measured], signs[self.measured])
        noise = Noise(self.noise.covariance * flip, self.noise.df)
        runs = np.array([len(record.runs) for record in records])
        return FrontProbability(values[:, self._exact], measured, runs, noise, seed)

    def _scaled(self, values: Array) -> Array:
        """Return measured objectives (n, measured) on the scale of their noise."""
        logarithms = np.log(np.maximum(values, SMALLEST))
        return np.where(self.relative, logarithms, values)

    def _standing(self, record: TrialRecord, index: int | None, *, on_front: bool) -> Standing:
        probability = None
        if self.membership is not None and index is not None:
            probability = float(self.membership.probability[index])
        half: tuple[float | None, ...] = (None,) * len(self.objectives)
        fresh = half
        if self.noise is not None and record.runs:
            assert record.values is not None
            runs = len(record.runs)
            half = self._spread(self.noise.mean(runs), record.values)
            fresh = self._spread(self.noise.fresh(runs), record.values)
        return Standing(record, on_front, probability, half, fresh, self._confirmed(record))

    def _confirmed(self, record: TrialRecord) -> Confirmation | None:
        if self.noise is None or not record.confirmations:
            return None
        values, count = mean_values(record.confirmations), len(record.confirmations)
        return Confirmation(count, values, self._spread(self.noise.mean(count), values))

    def _spread(self, widths: Array, means: Sequence[float]) -> tuple[float | None, ...]:
        """Return half widths in the objectives' units; the upper half where the noise is relative."""
        values = np.array(means)[self.measured]
        widths = np.where(self.relative, values * np.expm1(np.where(self.relative, widths, 0.0)), widths)
        known = dict(zip(self.measured, map(float, widths), strict=True))
        return tuple(known.get(column) for column in range(len(self.objectives)))

    def _confirmed_dict(self, confirmed: Confirmation, names: Sequence[str]) -> dict[str, Any]:
        return {
            "runs": confirmed.runs,
            "means": {name: confirmed.values[self._column(name)] for name in names},
            "intervals": {name: self._interval(confirmed.values, confirmed.half, name) for name in names},
        }

    def _interval(
        self, values: Sequence[float] | None, widths: Sequence[float | None], name: str
    ) -> list[float] | None:
        column = self._column(name)
        half = widths[column]
        if half is None or values is None:
            return None
        value = values[column]
        low = value - half
        if name in RELATIVE and value > 0:  # as far below by its ratio as the upper end is above
            low = value**2 / (value + half)
        return [low, value + half]


def _table(record: TrialRecord) -> Array:
    """Return the (runs, objectives) values of a trial, those that confirm it last."""
    return np.array([run.values for run in (*record.runs, *record.confirmations)], dtype=np.float64)
