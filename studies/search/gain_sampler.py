"""The sampler `gain`: suggests the architecture with the largest expected hypervolume improvement (EHVI).

Costs are exact and losses are extrapolated from learning curves. The candidates are random architectures and
neighbours of those on the front, without known ones and ones that break a constraint. Optuna's samplers model
every objective; here the costs need no model.

Late in a study most of what looks like an improvement is luck of a seed. So the loss that a candidate is
expected to have over all seeds is compared with the front of the expected losses, not of the measured ones
(as in noisy expected improvement, Letham et al. 2019, with the mean in place of draws).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from search_spaces import SearchSpace
from search_spaces.trial import RandomTrial
from studies.search.facts import ArchitectureFacts
from studies.search.observe import LOSSES, Observer
from studies.stats.seeds import derive_seed
from studies.study.trial_record import RUNNING, WAITING, TrialRecord, front_records
from studies.surrogates.expected_improvement import free_of_noise
from studies.surrogates.learning_curves import FEWEST, Prediction, extrapolate
from surgery.architecture import Architecture

BATCH = 48  # random architectures that join the pool at a time
BATCHES = 4  # of them that are looked at
WHOLE = 4096  # architectures of a space that is so small that all of it is looked at
TURN = 64  # trials until the next batch joins: with one per trial, every worker would draw all of them
NEIGHBOURS = 8  # of the front, in every pool
PARENTS = 16  # architectures whose neighbours are looked at
CHANGED = 0.25  # share of a parent's parameters that is drawn anew


class Candidate(NamedTuple):
    """An allowed architecture, the parameters that give it, and what is known of it before training."""

    params: dict[str, Any]
    architecture: Architecture
    costs: dict[str, float]
    features: tuple[float, ...]


class GainSampler:
    """Chooses the next architecture of a space.

    Attributes:
        drawn: batches of random candidates by index; the same for the same study seed.
    """

    def __init__(self, space: SearchSpace, seed: int, facts: ArchitectureFacts, observer: Observer) -> None:
        self.space, self.seed, self.facts, self.observer = space, seed, facts, observer
        self.drawn: dict[int, list[Candidate]] = {}

    def suggest(self, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
        """Return parameters of the next trial, or None: no new candidate, or too few observations."""
        observations = self.observer.observe(records)
        prediction = extrapolate(observations)
        pool = self._pool(records)
        if not pool or np.isfinite(prediction.sd).sum() < FEWEST:
            return None
        objectives = self.space.objectives
        signs = {item.name: 1 if item.direction == "min" else -1 for item in objectives}
        # What runs of other workers are expected to add must not be added twice, though they have no results.
        started = [record for record in records if record.state in (RUNNING, WAITING) and _may_count(record)]
        known = [(item.costs, item.features) for item in pool] + [self.facts.of(record) for record in started]
        costs = np.array(
            [[signs[name] * of[name] for name in signs if name not in LOSSES] for of, _ in known]
        )
        described = np.array([features for _, features in known])
        normalised, expected, freed = free_of_noise(observations, prediction, costs, described)
        costs = normalised.costs[len(observations) :]
        ends = dict(zip(observations.numbers.tolist(), freed.mean.tolist(), strict=True))
        reached = np.array([ends.get(record.number, np.nan) for record in started])
        guessed = expected.mean[len(pool) :]
        normalised.assume(np.where(np.isnan(reached), guessed, reached), costs[len(pool) :])
        ahead = Prediction(expected.mean[: len(pool)], expected.sd[: len(pool)])
        return pool[normalised.best(ahead, costs[: len(pool)])].params

    def _pool(self, records: Sequence[TrialRecord]) -> list[Candidate]:
        """Return new and allowed candidates, each once."""
        count = len(records)
        turn = count // TURN
        candidates = self._every()
        if not candidates:
            source = random.Random(derive_seed(self.seed, "neighbours", count))
            front = front_records(records, self.space.objectives)
            parents = sorted(front, key=lambda record: record.number)[-PARENTS:]
            trials = [_Neighbour(source.choice(parents).params, source) for _ in range(NEIGHBOURS) if parents]
            drawn = (item for index in range(turn - BATCHES + 1, turn + 1) for item in self._batch(index))
            candidates = [*drawn, *self._allowed(trials)]
        # Equal architectures cost the same, and hashes are slow: computed only where costs are equal.
        known = {record.hash for record in records}
        costs = self.facts.known_costs(records)
        equal: dict[tuple[float, ...], list[Architecture]] = {}
        pool = []
        for item in candidates:
            key = tuple(item.costs.values())
            if key in costs or key in equal:
                others = {other.hash for other in equal.get(key, ())}
                if item.architecture.hash in known or item.architecture.hash in others:
                    continue
            equal.setdefault(key, []).append(item.architecture)
            pool.append(item)
        return pool

    def _every(self) -> list[Candidate]:
        """Return every architecture of a small space, and none of a larger one."""
        if (self.facts.countable or math.inf) > WHOLE:
            return []
        if 0 not in self.drawn:
            untried = self.facts.untried([]) or ()  # of no trials: all, and all allowed
            trials = [_Neighbour(params, random.Random(0), changed=0) for params in untried]
            drawn = [(trial.params, self.space.sample(trial)) for trial in trials]
            self.drawn[0] = [Candidate(params, item, *self.facts.describe(item)) for params, item in drawn]
        return self.drawn[0]

    def _batch(self, index: int) -> list[Candidate]:
        """Return a batch of random architectures, the same for the same study seed and index."""
        if index not in self.drawn:
            seeds = (derive_seed(self.seed, "pool", index, member) for member in range(BATCH))
            self.drawn[index] = self._allowed([RandomTrial(seed) for seed in seeds])
            for old in [other for other in self.drawn if other <= index - 2 * BATCHES]:
                del self.drawn[old]
        return self.drawn[index]

    def _allowed(self, trials: Sequence[RandomTrial]) -> list[Candidate]:
        """Return what the trials draw, without what breaks a constraint."""
        drawn = [(trial.params, self.space.sample(trial)) for trial in trials]
        return [
            Candidate(params, architecture, *self.facts.describe(architecture))
            for params, architecture in drawn
            if not self.space.violations(architecture)
        ]


def _may_count(record: TrialRecord) -> bool:
    """Return whether a run is no replicate and its architecture may be on the front."""
    return bool(record.hash) and record.feasible and record.repeat_of is None


class _Neighbour(RandomTrial):
    """The parameters of another trial, some of them drawn anew."""

    def __init__(self, params: dict[str, Any], source: random.Random, changed: float = CHANGED) -> None:
        super().__init__(source)
        self.kept = {name: value for name, value in params.items() if source.random() >= changed}

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
