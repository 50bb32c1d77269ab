"""How much of the objectives' space a study's front dominates, as it grows over tokens and time.

Objectives are scaled to [0, 1] over the finished trials, costs that span orders of magnitude by their
logarithm (`studies.stats.pareto.scaled`), and the reference point lies at REFERENCE in each, a little
beyond the worst, so that extreme points count (Ishibuchi et al. 2018). The volume is given as a share of the
whole box: 1 would be a point that is best in everything. Shares of one study compare with each other, not
with those of another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from search_spaces.objectives import Objective
from search_spaces.proxy import Proxy
from studies.stats.hypervolume import Array, volume
from studies.stats.pareto import scaled
from studies.stats.seeds import derive_seed
from studies.storage.attributes import BASELINE
from studies.study.trial_record import DONE, TrialRecord

ORDERS = 30  # of trials, for what some of them dominate alone
MOST_COUNTS = 20  # points of that line


@dataclass(frozen=True)
class Spent:
    """A trial that used up training, in the order in which they ended.

    Attributes:
        tokens: that it was trained on.
        seconds: that it took its worker.
        point: scaled objectives, (objectives,); None when it has no result or a baseline breaks a constraint.
    """

    record: TrialRecord
    tokens: int
    seconds: float
    point: Array | None


def spent(records: Sequence[TrialRecord], objectives: Sequence[Objective], proxy: Proxy) -> list[Spent]:
    """Every trial that was trained, failed and stopped ones too: they cost tokens as well."""
    used = [record for record in records if record.trained or (record.tokens and record.ended)]
    used.sort(key=lambda record: (record.ended or datetime.max, record.number))
    finished = [record for record in used if record.state == DONE and record.values is not None]
    points: dict[int, Array] = {}
    if finished:
        table = scaled([record.values for record in finished if record.values], objectives)
        points = {record.number: row for record, row in zip(finished, table, strict=True) if record.feasible}
    whole = proxy.steps * proxy.batch_tokens * proxy.seeds
    whole += proxy.seeds * sum(probe.tokens for probe in proxy.probes.values())
    return [
        Spent(
            record,
            record.tokens if record.tokens is not None else whole,
            record.seconds,
            points.get(record.number),
        )
        for record in used
    ]


@dataclass(frozen=True)
class Alone:
    """What some trials of a study dominate by themselves, as their number grows to all of them at mean cost.

    It ends with them: what more of them would have found nobody knows.

    Attributes:
        tokens, seconds: (counts,), for at most MOST_COUNTS numbers of trials.
        volumes: (3, counts): mean, 5 % and 95 % over random orders.
        trials: how many there are.
    """

    tokens: Array
    seconds: Array
    volumes: Array
    trials: int

    def to_dict(self) -> dict[str, Any]:
        mean, low, high = self.volumes.tolist()
        return {
            "trials": self.trials,
            "tokens": self.tokens.tolist(),
            "seconds": self.seconds.tolist(),
            "mean": mean,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True)
class Growth:
    """Shares dominated after each trained trial.

    Attributes:
        numbers: of the trials, in the order in which they ended.
        tokens, seconds: spent until then, over all workers.
        volumes: of all trials so far.
        alone: the random trials by themselves, the random line, and the sampler's, by who suggested them.
    """

    numbers: tuple[int, ...]
    tokens: Array
    seconds: Array
    volumes: Array
    alone: dict[str, Alone]

    def to_dict(self) -> dict[str, Any]:
        return {
            "trials": list(self.numbers),
            "tokens": self.tokens.tolist(),
            "seconds": self.seconds.tolist(),
            "hypervolume": self.volumes.tolist(),
            "alone": {name: line.to_dict() for name, line in self.alone.items()},
        }


def growth(records: Sequence[TrialRecord], objectives: Sequence[Objective], proxy: Proxy) -> Growth:
    used = spent(records, objectives, proxy)
    names = dict.fromkeys(item.record.suggested_by for item in used)
    return Growth(
        tuple(item.record.number for item in used),
        np.cumsum([item.tokens for item in used], dtype=float),
        np.cumsum([item.seconds for item in used], dtype=float),
        running_volumes([item.point for item in used]),
        {
            name: _alone([item for item in used if item.record.suggested_by == name])
            for name in names
            if name not in (BASELINE, "")
        },
    )


def running_volumes(points: Sequence[Array | None]) -> Array:
    """(points,): the volume of the first, of the first two, and so on; a dominated point adds nothing."""
    front: list[Array] = []
    found: list[float] = []
    for point in points:
        if point is not None and not any((other <= point).all() for other in front):
            front = [other for other in front if not (point <= other).all()] + [point]
            found.append(volume(front))
        else:
            found.append(found[-1] if found else 0.0)
    return np.array(found)


def _alone(used: Sequence[Spent]) -> Alone:
    points = [item.point for item in used]
    counts = np.unique(np.linspace(1, len(used), min(len(used), MOST_COUNTS)).round().astype(int))
    rng = np.random.default_rng(derive_seed("alone", len(used)))
    orders = [rng.permutation(len(used)) for _ in range(ORDERS)]
    runs = np.array([[volume([points[at] for at in order[:count]]) for count in counts] for order in orders])
    return Alone(
        counts * np.mean([item.tokens for item in used]),
        counts * np.mean([item.seconds for item in used]),
        np.stack([runs.mean(axis=0), *np.quantile(runs, [0.05, 0.95], axis=0)]),
        len(used),
    )
