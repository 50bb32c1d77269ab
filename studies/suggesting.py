"""The sampler `gain`: suggests what is expected to add most to the front, by exact costs and forecast losses.

Out of a pool of architectures: random ones, and neighbours of those that stand on the front or may come to.
What is known or breaks a constraint is not among them. Optuna's samplers model every objective; here the
costs need none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.trial import RandomTrial
from studies.gathering import LOSSES, gather
from studies.records import TrialRecord
from studies.rungs.forecast import forecast, prospects
from studies.rungs.gain import Box
from studies.samplers import derive_seed
from surgery.architecture import Architecture

if TYPE_CHECKING:
    from studies.study import Study

BATCH = 16  # random architectures that join the pool with every trial, and as many neighbours of the front
BATCHES = 4  # of random ones that are looked at: those of the last trials, drawn and counted already
PARENTS = 16  # architectures whose neighbours are looked at
CHANGED = 0.25  # share of a parent's parameters that is drawn anew


def suggest(study: Study, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """Parameters of the next trial; None where nothing new was found, or nothing is known to choose by."""
    evidence = gather(study, records)
    told = forecast(evidence)
    pool = _pool(study, records)
    if not pool or not np.isfinite(told.sd).any():
        return None
    facts = [study.facts(architecture) for _, architecture in pool]
    signs = {item.name: 1 if item.direction == "min" else -1 for item in study.space.objectives}
    costs = np.array(
        [[signs[name] * exact[name] for name in signs if name not in LOSSES] for exact, _ in facts]
    )
    expected = prospects(evidence, told, costs, np.array([described for _, described in facts]))
    box = Box(evidence, told, costs)
    places = box.costs[len(evidence) :]
    gains = [box.gain(*item) for item in zip(expected.mean, expected.sd, places, strict=True)]
    return pool[int(np.argmax(gains))][0]


def _pool(study: Study, records: Sequence[TrialRecord]) -> list[tuple[dict[str, Any], Architecture]]:
    """(parameters, architecture), new and allowed, each once."""
    known = {record.hash for record in records}
    count = len(records)
    candidates = [item for index in range(count - BATCHES + 1, count + 1) for item in _batch(study, index)]
    source = random.Random(derive_seed(study.settings.seed, "neighbours", count))
    parents = sorted(study.front(), key=lambda record: record.number)[-PARENTS:]
    trials = [_Neighbour(source.choice(parents).params, source) for _ in range(BATCH) if parents]
    candidates += [(trial.params, study.space.sample(trial)) for trial in trials]
    found = []
    for params, architecture in candidates:
        if architecture.hash not in known and not study.space.violations(architecture):
            known.add(architecture.hash)
            found.append((params, architecture))
    return found


def _batch(study: Study, index: int) -> list[tuple[dict[str, Any], Architecture]]:
    """Random architectures, the same for the same study seed and index."""
    drawn = study.drawn.get(index)
    if drawn is None:
        trials = [
            RandomTrial(derive_seed(study.settings.seed, "pool", index, place)) for place in range(BATCH)
        ]
        drawn = [(trial.params, study.space.sample(trial)) for trial in trials]
        study.drawn[index] = drawn
        study.drawn.pop(index - 2 * BATCHES, None)
    return drawn


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
