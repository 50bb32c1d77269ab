"""Where every architecture stands: its result with an interval, its probability of being on the front, its
ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.objectives import Objective
from studies.stats.front_probability import Membership
from studies.stats.seed_noise import Array, Coverage, Noise, coverage, pool
from studies.stats.seeds import derive_seed
from studies.study.trial_record import DONE, TrialRecord, front_records

if TYPE_CHECKING:
    from studies.study import Study

MAYBE, SURE = 0.1, 0.9  # probabilities between which an architecture's place is undecided


@dataclass(frozen=True)
class Standing:
    """One architecture.

    Attributes:
        on_front: by the means of its and everybody's runs.
        p_front: the probability that its true means are on the front; None where nothing ran twice.
        half: half width of the 90 % interval of its mean, an objective each; None for exact ones.
        fresh: the same for the result of one more seed.
    """

    record: TrialRecord
    on_front: bool
    p_front: float | None
    half: tuple[float | None, ...]
    fresh: tuple[float | None, ...]

    @property
    def runs(self) -> int:
        return len(self.record.runs)

    @property
    def undecided(self) -> bool:
        """The runs so far leave open whether it is on the front."""
        return self.p_front is not None and MAYBE < self.p_front < SURE


class Standings:
    """All trained architectures that meet the constraints, by the first objective from its best.

    Attributes:
        noise: of one run, over the measured objectives; None where nothing ran twice.
        coverage: by measured objective, how the intervals did on repeats that were held out.
        measured: places of the objectives that only training tells.
    """

    def __init__(self, records: Sequence[TrialRecord], objectives: Sequence[Objective], seed: int) -> None:
        self.objectives = tuple(objectives)
        self.measured = [place for place, item in enumerate(objectives) if item.measured]
        self._exact = [place for place, item in enumerate(objectives) if not item.measured]
        trained = [record for record in records if record.state == DONE and record.values]
        tables = [_table(record)[:, self.measured] for record in trained]
        self.noise: Noise | None = pool(tables)
        self.coverage: dict[str, Coverage] = {
            objectives[place].name: coverage([table[:, column] for table in tables], skip=1)
            for column, place in enumerate(self.measured)
        }
        self.repeated = sum(len(table) > 1 for table in tables)
        feasible = [record for record in trained if record.feasible]
        sign = 1 if objectives[0].direction == "min" else -1
        feasible.sort(key=lambda record: sign * record.values[0] if record.values else 0.0)
        self.membership = self._membership(feasible, seed)
        best = {record.number for record in front_records(feasible, self.objectives)}
        self.rows = [
            self._standing(record, place, on_front=record.number in best)
            for place, record in enumerate(feasible)
        ]

    @classmethod
    def of(cls, study: Study, records: Sequence[TrialRecord] | None = None) -> Standings:
        """Of a study's records, or of a snapshot of them."""
        seed = derive_seed(study.settings.seed, "front")
        return cls(study.records() if records is None else records, study.space.objectives, seed)

    @property
    def front(self) -> list[Standing]:
        """The point front: by means."""
        return [row for row in self.rows if row.on_front]

    @property
    def near(self) -> list[Standing]:
        """Not on the point front, but perhaps on the true one."""
        return [row for row in self.rows if not row.on_front and (row.p_front or 0.0) > MAYBE]

    @property
    def shown(self) -> list[Standing]:
        """Both, in order."""
        return [row for row in self.rows if row.on_front or (row.p_front or 0.0) > MAYBE]

    @property
    def undecided(self) -> list[Standing]:
        """Those that more runs could put on the front or off it."""
        return [row for row in self.rows if row.undecided]

    def standing(self, record: TrialRecord) -> Standing:
        """Of any trial; one that was not trained or breaks a constraint has no place on the front."""
        known = (row for row in self.rows if row.record.number == record.number)
        return next(known, None) or self._standing(record, None, on_front=False)

    def gap(self, one: Standing, other: Standing, place: int) -> tuple[float, float | None]:
        """How far apart two are in an objective, and the half width of that difference's interval."""
        assert one.record.values is not None
        assert other.record.values is not None
        apart = abs(one.record.values[place] - other.record.values[place])
        if self.noise is None or place not in self.measured:
            return apart, None
        return apart, float(self.noise.difference(one.runs, other.runs)[self.measured.index(place)])

    def tied(self, one: Standing, other: Standing) -> bool:
        """No measured objective tells them apart: each difference lies within its 90 % interval."""
        gaps = [self.gap(one, other, place) for place in self.measured]
        return all(half is not None and apart <= half for apart, half in gaps)

    def ties(self, row: Standing) -> list[Standing]:
        """Of those shown, the ones that are tied with it."""
        if not row.runs:
            return []
        return [other for other in self.shown if other.record is not row.record and self.tied(row, other)]

    def rivals(self, row: Standing) -> list[Standing]:
        """Those that cost no more and perhaps are no worse: they decide whether it is on the front."""
        if self.membership is None:
            return []
        return [self.rows[place] for place in self.membership.rivals(self.rows.index(row), MAYBE)]

    def to_dict(self, row: Standing) -> dict[str, Any]:
        """For `--json`; stable. Intervals are [low, high], of the measured objectives."""
        measured = [self.objectives[place].name for place in self.measured]
        return {
            **row.record.to_dict(),
            "on_front": row.on_front,
            "p_front": row.p_front,
            "undecided": row.undecided,
            "intervals": {name: _interval(row, row.half, self._place(name)) for name in measured},
            "fresh_intervals": {name: _interval(row, row.fresh, self._place(name)) for name in measured},
            "ties": [other.record.number for other in self.ties(row)],
        }

    def noise_dict(self) -> dict[str, Any] | None:
        """For `--json`: what is known of the seed noise."""
        if self.noise is None:
            return None
        names = [self.objectives[place].name for place in self.measured]
        return {
            "sd": dict(zip(names, map(float, self.noise.sd), strict=True)),
            "degrees_of_freedom": self.noise.df,
            "repeated_architectures": self.repeated,
            "coverage": {
                name: {"covered": found.covered, "held_out": found.held_out}
                for name, found in self.coverage.items()
            },
        }

    def _place(self, name: str) -> int:
        return next(place for place, item in enumerate(self.objectives) if item.name == name)

    def _membership(self, records: Sequence[TrialRecord], seed: int) -> Membership | None:
        if self.noise is None or not records:
            return None
        signs = np.array([1.0 if item.direction == "min" else -1.0 for item in self.objectives])
        values = np.array([record.values for record in records], dtype=np.float64) * signs
        flip = np.outer(signs[self.measured], signs[self.measured])
        noise = Noise(self.noise.covariance * flip, self.noise.df)
        runs = np.array([len(record.runs) for record in records])
        return Membership(values[:, self._exact], values[:, self.measured], runs, noise, seed)

    def _standing(self, record: TrialRecord, place: int | None, *, on_front: bool) -> Standing:
        probability = None
        if self.membership is not None and place is not None:
            probability = float(self.membership.probability[place])
        half: tuple[float | None, ...] = (None,) * len(self.objectives)
        fresh = half
        if self.noise is not None and record.runs:
            runs = len(record.runs)
            half, fresh = self._spread(self.noise.mean(runs)), self._spread(self.noise.fresh(runs))
        return Standing(record, on_front, probability, half, fresh)

    def _spread(self, widths: Array) -> tuple[float | None, ...]:
        known = dict(zip(self.measured, map(float, widths), strict=True))
        return tuple(known.get(place) for place in range(len(self.objectives)))


def _table(record: TrialRecord) -> Array:
    """(n, objectives) of its runs."""
    return np.array([run.values for run in record.runs], dtype=np.float64)


def _interval(row: Standing, widths: Sequence[float | None], place: int) -> list[float] | None:
    half, values = widths[place], row.record.values
    return None if half is None or values is None else [values[place] - half, values[place] + half]
