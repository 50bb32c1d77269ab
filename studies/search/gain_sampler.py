"""The sampler `gain`: suggests what is expected to add most to the front, by exact costs and forecast losses.

Out of a pool of architectures: random ones, and neighbours of those that stand on the front or may come to.
What is known or breaks a constraint is not among them. Optuna's samplers model every objective; here the
costs need none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from search_spaces.trial import RandomTrial
from studies.search.observe import LOSSES, gather
from studies.stats.seeds import derive_seed
from studies.study.trial_record import RUNNING, WAITING, TrialRecord, front_records
from studies.surrogates.expected_improvement import Box
from studies.surrogates.learning_curves import FEWEST, Forecast, forecast, prospects
from surgery.architecture import Architecture

if TYPE_CHECKING:
    from studies.study import Study

BATCH = 48  # random architectures that join the pool at a time
BATCHES = 4  # of them that are looked at
WHOLE = 4096  # architectures of a space that is so small that all of it is looked at
TURN = 64  # trials until the next batch joins: with one a trial, each of several workers would draw them all
NEIGHBOURS = 8  # of the front, in every pool
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
    if not pool or np.isfinite(told.sd).sum() < FEWEST:
        return None
    signs = {item.name: 1 if item.direction == "min" else -1 for item in study.space.objectives}
    # runs of other workers tell nothing yet, and what they are expected to add is not to be found twice
    started = [record for record in records if record.state in (RUNNING, WAITING) and _may_count(record)]
    known = [(item.costs, item.features) for item in pool] + [study.facts(record) for record in started]
    costs = np.array([[signs[name] * of[name] for name in signs if name not in LOSSES] for of, _ in known])
    expected = prospects(evidence, told, costs, np.array([features for _, features in known]))
    box = Box(evidence, told, costs)
    costs = box.costs[len(evidence) :]
    ends = dict(zip(evidence.numbers.tolist(), told.mean.tolist(), strict=True))
    reached = np.array([ends.get(record.number, np.nan) for record in started])
    guessed = expected.mean[len(pool) :]
    box.assume(np.where(np.isnan(reached), guessed, reached), costs[len(pool) :])
    ahead = Forecast(expected.mean[: len(pool)], expected.sd[: len(pool)])
    return pool[box.best(ahead, costs[: len(pool)])].params


def _may_count(record: TrialRecord) -> bool:
    """Whether a run is of an architecture that may stand on the front, and no repeat."""
    return bool(record.hash) and record.feasible and record.repeat_of is None


def _pool(study: Study, records: Sequence[TrialRecord]) -> list[Candidate]:
    """New and allowed ones, each once."""
    count = len(records)
    turn = count // TURN
    candidates = _every(study)
    if not candidates:
        source = random.Random(derive_seed(study.settings.seed, "neighbours", count))
        front = front_records(records, study.space.objectives)
        parents = sorted(front, key=lambda record: record.number)[-PARENTS:]
        trials = [_Neighbour(source.choice(parents).params, source) for _ in range(NEIGHBOURS) if parents]
        drawn = (item for index in range(turn - BATCHES + 1, turn + 1) for item in _batch(study, index))
        candidates = [*drawn, *_allowed(study, trials)]
    # equal architectures cost the same, and hashes take long: they are only worked out where costs are equal
    known = {record.hash for record in records}
    costs = study.known_costs(records)
    alike: dict[tuple[float, ...], list[Architecture]] = {}
    found = []
    for item in candidates:
        key = tuple(item.costs.values())
        if key in costs or key in alike:
            others = {other.hash for other in alike.get(key, ())}
            if item.architecture.hash in known or item.architecture.hash in others:
                continue
        alike.setdefault(key, []).append(item.architecture)
        found.append(item)
    return found


def _every(study: Study) -> list[Candidate]:
    """Every architecture of a small space; none of a larger one."""
    if (study.countable or math.inf) > WHOLE:
        return []
    if 0 not in study.drawn:
        trials = [_Neighbour(params, random.Random(0), changed=0) for params in study.untried([]) or ()]
        drawn = [(trial.params, study.space.sample(trial)) for trial in trials]  # allowed, as is all untried
        study.drawn[0] = [Candidate(params, item, *study.describe(item)) for params, item in drawn]
    return study.drawn[0]


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
