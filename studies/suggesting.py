"""The sampler `gain`: suggests what is expected to add most to the front, by exact costs and forecast losses.

Out of a pool of architectures: random ones, and neighbours of those that stand on the front or may come to.
What is known or breaks a constraint is not among them. Optuna's samplers model every objective; here the
costs need none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from search_spaces.trial import RandomTrial
from studies.gathering import LOSSES, gather
from studies.records import INFEASIBLE, TrialRecord
from studies.rungs.forecast import forecast, prospects
from studies.rungs.gain import Box
from studies.samplers import derive_seed
from surgery.architecture import Architecture

if TYPE_CHECKING:
    from studies.study import Study

BATCH = 16  # random architectures that join the pool at a time; and neighbours of the front in every pool
BATCHES = 4  # of random ones that are looked at
TURN = 16  # trials until the next batch joins: with one a trial, each of several workers would draw them all
PARENTS = 16  # architectures whose neighbours are looked at
CHANGED = 0.25  # share of a parent's parameters that is drawn anew


class Candidate(NamedTuple):
    """An allowed architecture, the parameters that give it, and what is known of it before training."""

    params: dict[str, Any]
    architecture: Architecture
    costs: dict[str, float]
    features: tuple[float, ...]


def suggest(study: Study, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """Parameters of the next trial; None where nothing new was found, or nothing is known to choose by."""
    evidence = gather(study, records)
    told = forecast(evidence)
    pool = _pool(study, records)
    if not pool or not np.isfinite(told.sd).any():
        return None
    signs = {item.name: 1 if item.direction == "min" else -1 for item in study.space.objectives}
    costs = np.array(
        [[signs[name] * item.costs[name] for name in signs if name not in LOSSES] for item in pool]
    )
    expected = prospects(evidence, told, costs, np.array([item.features for item in pool]))
    box = Box(evidence, told, costs)
    return pool[box.best(expected, box.costs[len(evidence) :])].params


def _pool(study: Study, records: Sequence[TrialRecord]) -> list[Candidate]:
    """New and allowed ones, each once."""
    count = len(records)
    turn = count // TURN
    candidates = [item for index in range(turn - BATCHES + 1, turn + 1) for item in _batch(study, index)]
    source = random.Random(derive_seed(study.settings.seed, "neighbours", count))
    parents = sorted(study.front(), key=lambda record: record.number)[-PARENTS:]
    trials = [_Neighbour(source.choice(parents).params, source) for _ in range(BATCH) if parents]
    candidates += _allowed(study, trials)
    # equal architectures cost the same, and hashes take long: they are only worked out where costs are equal
    known = {record.hash for record in records}
    alike: dict[tuple[float, ...], list[Architecture]] = {
        tuple(study.costs(record).values()): []
        for record in records
        if record.hash and record.state != INFEASIBLE
    }
    found = []
    for item in candidates:
        key = tuple(item.costs.values())
        if key in alike:
            others = {other.hash for other in alike[key]}
            if item.architecture.hash in known or item.architecture.hash in others:
                continue
        alike.setdefault(key, []).append(item.architecture)
        found.append(item)
    return found


def _batch(study: Study, index: int) -> list[Candidate]:
    """Random architectures, the same for the same study seed and index."""
    if index not in study.drawn:
        seeds = (derive_seed(study.settings.seed, "pool", index, place) for place in range(BATCH))
        study.drawn[index] = _allowed(study, [RandomTrial(seed) for seed in seeds])
        for old in [other for other in study.drawn if other <= index - 2 * BATCHES]:
            del study.drawn[old]
    return study.drawn[index]


def _allowed(study: Study, trials: Sequence[RandomTrial]) -> list[Candidate]:
    """What the trials draw, without what breaks a constraint."""
    drawn = [(trial.params, study.space.sample(trial)) for trial in trials]
    return [
        Candidate(params, architecture, *study.describe(architecture))
        for params, architecture in drawn
        if not study.space.violations(architecture)
    ]


class _Neighbour(RandomTrial):
    """Another's parameters, some of them drawn anew."""

    def __init__(self, params: dict[str, Any], source: random.Random) -> None:
        super().__init__(source)
        self.kept = {name: value for name, value in params.items() if source.random() >= CHANGED}

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        drawn = super().suggest_categorical(name, choices)
        return self._keep(name, drawn, self.kept.get(name) in choices)

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int = 1) -> int:
        drawn = super().suggest_int(name, low, high, step=step)
        return int(self._keep(name, drawn, self.kept.get(name) in range(low, high + 1, step)))

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        drawn = super().suggest_float(name, low, high, log=log)
        value = self.kept.get(name)
        return float(self._keep(name, drawn, isinstance(value, float) and low <= value <= high))

    def _keep(self, name: str, drawn: Any, fits: bool) -> Any:
        if fits and name in self.kept:
            self.params[name] = self.kept[name]
        return self.params[name]
