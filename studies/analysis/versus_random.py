"""Permutation test of a study's sampler against random search of the same cost, within one study.

Every study starts with random trials, and all trials train equally long: the R random trials are a random
search of that cost. If the sampler were no better than chance, its trials and the random ones would be draws
from one distribution, and any R of all of them would dominate as much as the random R do. So the hypervolume
of the random trials is compared with those of R trials drawn from both groups together: p is the share of
draws that dominate no more. The test is exact for any distribution (Pitman 1937), if it is used once.

A study is watched while it grows, and a test that is repeated after every trial finds a small p sooner or
later. So the test looks only when the sampler has finished LOOKS trials, at those that had ended by then, and
the smallest p counts as many times as there may be looks (Bonferroni). The result is the same however
often it is read, and holds at any time: a sampler no better than chance is said to have beaten random search
in at most LEVEL of all studies, even if they are watched to their end.

Baselines are in neither group. A failed trial dominates nothing. With early stopping, the finished trials are
a selection, and the first, random ones were compared with fewer others: then all trials are compared at the
first rung, which all of them reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from studies.analysis.hypervolume_growth import spent
from studies.stats.hypervolume import Array, volume
from studies.stats.rungs import step_at
from studies.stats.seeds import derive_seed
from studies.storage.attributes import BASELINE
from studies.study import Study
from studies.study.trial_record import DONE, FAILED, RANDOM, TrialRecord
from surgery.architecture.metrics import AHEAD

LEVEL = 0.05
LOOKS = (10, 30, 90)  # trials of the sampler at which the test looks; nothing is decided in between
FEWEST = 5  # random trials; with fewer no p could be significant
DRAWS = 499  # draws from both groups together
CHOICES = 30  # draws from one group, for its mean hypervolume
ROUNDING = 1e-12

BEATEN, NOT_BEATEN, UNKNOWN = "beaten", "not beaten", "can't tell yet"


@dataclass(frozen=True)
class Comparison:
    """Result of the comparison of a sampler with random search.

    Attributes:
        outcome: BEATEN at p <= LEVEL; NOT_BEATEN if at the last look the random trials dominate at least as
            much as half of the draws; else UNKNOWN.
        random, sampled: numbers of trained trials of each kind.
        p: one-sided p-value, valid however often the study is looked at; None before the first look.
        random_volume, sampled_volume: mean hypervolume of equally many trials of each kind.
        rung: share of the proxy at which the losses were measured.
        looks: numbers of the sampler's trials at which the test looked so far.
    """

    sampler: str
    outcome: str
    random: int
    sampled: int
    p: float | None = None
    random_volume: float | None = None
    sampled_volume: float | None = None
    rung: float = 1.0
    looks: tuple[int, ...] = ()

    def __str__(self) -> str:
        trials = f"{self.random} random and {self.sampled} {self.sampler} trials"
        if self.sampler == RANDOM:
            return "this study is a random search itself"
        if self.p is None:
            wanted = (
                f"{LOOKS[0]} {self.sampler} trials" if self.sampled < LOOKS[0] else f"{FEWEST} random trials"
            )
            return (
                f"can't tell yet whether {self.sampler} beats random search: {trials}, the first look is at "
                f"{wanted}"
            )
        evidence = f"p = {self.p:.2g} however often one looks, {trials}, last look at {self.looks[-1]}"
        evidence += f", losses at {self.rung:.0%} of the proxy" if self.rung < 1 else ""
        if self.outcome == UNKNOWN:
            return f"can't tell yet whether {self.sampler} beats random search of the same cost: {evidence}"
        verb = "has" if self.outcome == BEATEN else "has not"
        return f"{self.sampler} {verb} beaten random search of the same cost ({evidence})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with a summary."""
        return {**asdict(self), "summary": str(self)}


def compare(study: Study, records: Sequence[TrialRecord]) -> Comparison:
    """Compare the study's sampler with its own random trials; `records` are all of its trials."""
    objectives, proxy, sampler = study.space.objectives, study.space.proxy, study.settings.sampler
    # neither sampler suggested replicates, nor their share in a mean
    records = [record.as_first_run() for record in records if record.repeat_of is None]
    used = spent(records, objectives, proxy)
    rung = 1.0
    if any(item.record.state not in (DONE, FAILED) for item in used):
        rung = proxy.rungs[0]
        used = spent([_at_first_rung(study, item.record) for item in used], objectives, proxy)
    suggested = [item for item in used if item.record.suggested_by not in (BASELINE, "")]
    at_random = [item.record.suggested_by == RANDOM for item in suggested]
    if sampler == RANDOM:
        return Comparison(sampler, UNKNOWN, sum(at_random), len(at_random) - sum(at_random))
    return replace(decide([item.point for item in suggested], at_random, sampler), rung=rung)


def _at_first_rung(study: Study, record: TrialRecord) -> TrialRecord:
    """Return a trial as if it had ended at the first rung; failed if its curve is missing or incomplete."""
    proxy = study.space.proxy
    step = step_at(proxy.rungs[0], record.whole_steps(proxy))
    held_out = next((at for at in study.curve(record.number) if at["step"] == step and "val_loss" in at), {})
    if held_out:
        held_out = {**held_out, **dict.fromkeys(AHEAD, held_out["val_loss"])}  # a single point has no slope
    exact = {item.name: item for item in study.space.objectives if not item.measured}
    names = [item.name for item in study.space.objectives]
    if not all(name in exact or name in held_out for name in names):
        return replace(record, state=FAILED, values=None)
    architecture = record.build()
    values = (
        study.space.cost(architecture, name) if name in exact else float(held_out[name]) for name in names
    )
    return replace(record, state=DONE, values=tuple(values))


def decide(
    points: Sequence[Array | None], at_random: Sequence[bool], sampler: str, draws: int = DRAWS
) -> Comparison:
    """Run the test on a study's trials.

    Args:
        points: scaled objectives of the trials, in the order in which they ended; None is a trial that
            dominates nothing.
        at_random: whether each was drawn at random, else the sampler chose it.
        sampler: name of the sampler.
        draws: from both groups together, at each look.
    """
    chance = [point for point, random in zip(points, at_random, strict=True) if random]
    sampled = [point for point, random in zip(points, at_random, strict=True) if not random]
    ends = np.flatnonzero(~np.asarray(at_random, dtype=bool))  # of the sampler's trials
    looks = {look: int(ends[look - 1]) + 1 for look in LOOKS if look <= len(ends)}
    looks = {look: end for look, end in looks.items() if sum(at_random[:end]) >= FEWEST}
    if not looks:
        return Comparison(sampler, UNKNOWN, len(chance), len(sampled))
    each = [_p_at_once(points[:end], at_random[:end], draws) for end in looks.values()]
    p = min(1.0, len(LOOKS) * min(each))
    outcome = BEATEN if p <= LEVEL else NOT_BEATEN if each[-1] >= 0.5 else UNKNOWN
    rng = np.random.default_rng(derive_seed("volumes", len(chance), len(sampled)))
    size = min(len(chance), len(sampled))
    random_volume, sampled_volume = (_mean_volume(group, size, rng) for group in (chance, sampled))
    counts = len(chance), len(sampled)
    return Comparison(sampler, outcome, *counts, p, random_volume, sampled_volume, looks=tuple(looks))


def _p_at_once(points: Sequence[Array | None], at_random: Sequence[bool], draws: int) -> float:
    """Return the p-value of a single look.

    The smaller group is compared with as many trials drawn from both. The objectives are scaled again,
    to these trials alone, so that what ends later does not change an earlier look.
    """
    everything = _scaled_alone(points)
    chance = [point for point, random in zip(everything, at_random, strict=True) if random]
    sampled = [point for point, random in zip(everything, at_random, strict=True) if not random]
    rng = np.random.default_rng(derive_seed("versus random", len(chance), len(sampled)))
    size = min(len(chance), len(sampled))
    drawn = np.array([volume(_some(everything, size, rng)) for _ in range(draws)])
    if size == len(chance):
        extreme = drawn <= volume(chance) + ROUNDING
    else:
        extreme = drawn >= volume(sampled) - ROUNDING
    return (1 + int(extreme.sum())) / (1 + draws)


def _scaled_alone(points: Sequence[Array | None]) -> list[Array | None]:
    """Return the points scaled from 0, the best of these in each objective, to 1, the worst."""
    table = np.array([point for point in points if point is not None])
    if not len(table):
        return list(points)
    span = np.ptp(table, axis=0)
    span = np.where(span > 0, span, 1.0)
    return [None if point is None else (point - table.min(axis=0)) / span for point in points]


def _mean_volume(points: Sequence[Array | None], size: int, rng: np.random.Generator) -> float:
    choices = CHOICES if len(points) > size else 1
    return float(np.mean([volume(_some(points, size, rng)) for _ in range(choices)]))


def _some(points: Sequence[Array | None], size: int, rng: np.random.Generator) -> list[Array | None]:
    return [points[index] for index in rng.choice(len(points), size, replace=False)]
