"""Dominated hypervolume of a study's front over tokens and training time.

Objectives are scaled to [0, 1] over the finished trials, costs that span orders of magnitude on a log scale
(`studies.stats.pareto.scaled`), and the reference point is REFERENCE in each, slightly beyond the worst, so
that extreme points count (Ishibuchi et al. 2018). The hypervolume is a share of the whole box: 1 would be a
point that is best in every objective. Shares are comparable within a study, not between studies.
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

ORDERS = 30  # random orders of the trials of one sampler
MOST_COUNTS = 20  # points of a sampler's line


@dataclass(frozen=True)
class Spent:
    """The cost and result of a trained trial.

    Attributes:
        tokens: tokens that it was trained on.
        seconds: time that it took its worker.
        point: scaled objectives, (objectives,); None without a result, or for a baseline that breaks a
            constraint.
    """

    record: TrialRecord
    tokens: int
    seconds: float
    point: Array | None


def spent(records: Sequence[TrialRecord], objectives: Sequence[Objective], proxy: Proxy) -> list[Spent]:
    """Return every trained trial by its end, failed and paused ones included since they cost tokens too."""
    used = [record for record in records if record.counted or (record.tokens and record.ended)]
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
    """Hypervolume of one sampler's trials alone, over their number, at their mean cost.

    The line ends with the last of these trials; it is not extrapolated.

    Attributes:
        tokens, seconds: (counts,), for at most MOST_COUNTS numbers of trials.
        volumes: (3, counts): mean, 5 % and 95 % quantiles over random orders.
        trials: number of these trials.
    """

    tokens: Array
    seconds: Array
    volumes: Array
    trials: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
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
    """Hypervolume after each trained trial, as a share of the box.

    Attributes:
        numbers: of the trials, in the order in which they ended.
        tokens, seconds: total cost so far, over all workers.
        volumes: hypervolume of all trials so far.
        alone: lines of the random trials alone and of each sampler's trials alone, by sampler.
    """

    numbers: tuple[int, ...]
    tokens: Array
    seconds: Array
    volumes: Array
    alone: dict[str, Alone]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "trials": list(self.numbers),
            "tokens": self.tokens.tolist(),
            "seconds": self.seconds.tolist(),
            "hypervolume": self.volumes.tolist(),
            "alone": {name: line.to_dict() for name, line in self.alone.items()},
        }


def growth(records: Sequence[TrialRecord], objectives: Sequence[Objective], proxy: Proxy) -> Growth:
    """Return the growth of the hypervolume over a study's trials."""
    used = spent(records, objectives, proxy)
    suggested = [item for item in used if item.record.repeat_of is None]  # replicates were chosen by none
    names = dict.fromkeys(item.record.suggested_by for item in suggested)
    return Growth(
        tuple(item.record.number for item in used),
        np.cumsum([item.tokens for item in used], dtype=float),
        np.cumsum([item.seconds for item in used], dtype=float),
        running_volumes([item.point for item in used]),
        {
            name: _alone([item for item in suggested if item.record.suggested_by == name])
            for name in names
            if name not in (BASELINE, "")
        },
    )


def running_volumes(points: Sequence[Array | None]) -> Array:
    """Return the (points,) hypervolumes of the first point, the first two, and so on."""
    front: list[Array] = []
    volumes: list[float] = []
    for point in points:
        if point is not None and not any((other <= point).all() for other in front):
            front = [other for other in front if not (point <= other).all()] + [point]
            volumes.append(volume(front))
        else:
            volumes.append(volumes[-1] if volumes else 0.0)
    return np.array(volumes)


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
