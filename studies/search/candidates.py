"""The pool that the sampler `gain` chooses from: new and allowed architectures, each once.

A small space is looked at whole. Of a larger one the pool has random architectures and neighbours of those
on the front. Both are drawn from seeds of their own and kept for a while, so that all workers and a resumed
study have the same, and so that a trial only pays for what joined since the last.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from search_spaces import SearchSpace
from search_spaces.trial import RandomTrial
from studies.search.facts import ArchitectureFacts, Candidate
from studies.stats.seeds import derive_seed
from studies.study.trial_record import INFEASIBLE, TrialRecord, front_records
from surgery.architecture import Architecture

WHOLE = 4096  # architectures of a space that is so small that all of it is looked at
BATCH = 256  # random architectures that join the pool at a time
BATCHES = 2  # of them that are looked at
TURN = 256  # trials until the next batch joins: every worker draws all of them, and drawing costs most
NEAR = 16  # neighbours of each parent, renewed with the batches
PARENTS = 16  # architectures whose neighbours are looked at, the newest of the front
CHANGED = 0.25  # share of a parent's parameters that is drawn anew

Key = tuple[str, int, int]  # what is drawn, of which trial or which batch, in which turn


class CandidatePool:
    """Draws candidates of a space, and leaves out those that a study knows.

    Attributes:
        whole: most architectures of a space that is looked at whole.
        drawn: what was drawn lately; the same for the same study seed.
    """

    def __init__(self, space: SearchSpace, seed: int, facts: ArchitectureFacts) -> None:
        self.space, self.seed, self.facts = space, seed, facts
        self.whole = WHOLE
        self.drawn: dict[Key, list[Candidate]] = {}
        self._costs: set[tuple[float, ...]] = set()  # of the first `_costs_to` trials
        self._costs_to = 0

    def new(self, records: Sequence[TrialRecord]) -> list[Candidate]:
        """Return the candidates for the next trial."""
        known = {record.hash for record in records}
        if (self.facts.countable or math.inf) <= self.whole:
            return [item for item in self.facts.every or () if item.architecture.hash not in known]
        candidates = [*self._random(len(records)), *self._neighbours(records)]
        # Equal architectures cost the same, and hashes are slow: computed only where costs are equal.
        costs = self._known_costs(records)
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

    def _random(self, count: int) -> list[Candidate]:
        """Return the batches of random architectures that are looked at after `count` trials."""
        turn = count // TURN
        batches = []
        for index in range(turn - BATCHES + 1, turn + 1):
            key = "pool", index, 0
            if key not in self.drawn:
                seeds = (derive_seed(self.seed, "pool", index, member) for member in range(BATCH))
                self.drawn[key] = self._allowed([RandomTrial(seed) for seed in seeds])
            batches += self.drawn[key]
        self.drawn = {
            key: items
            for key, items in self.drawn.items()
            if (key[1] if key[0] == "pool" else key[2]) > turn - 2 * BATCHES
        }
        return batches

    def _neighbours(self, records: Sequence[TrialRecord]) -> list[Candidate]:
        """Return the neighbours of the newest architectures on the front."""
        turn = len(records) // TURN
        front = sorted(front_records(records, self.space.objectives), key=lambda record: record.number)
        near = []
        for parent in front[-PARENTS:]:
            key = "near", parent.number, turn
            if key not in self.drawn:
                source = random.Random(derive_seed(self.seed, *key))
                self.drawn[key] = self._allowed([Neighbour(parent.params, source) for _ in range(NEAR)])
            near += self.drawn[key]
        return near

    def _allowed(self, trials: Sequence[RandomTrial]) -> list[Candidate]:
        """Return what the trials draw, without what breaks a constraint."""
        drawn = [(trial.params, self.space.sample(trial)) for trial in trials]
        return [
            Candidate(params, architecture, *self.facts.describe(architecture))
            for params, architecture in drawn
            if not self.space.violations(architecture)
        ]

    def _known_costs(self, records: Sequence[TrialRecord]) -> set[tuple[float, ...]]:
        """Return the costs of all trials that may be trained, as tuples; extended from call to call."""
        complete = True
        for record in records[self._costs_to :]:
            if record.hash and record.state != INFEASIBLE:
                self._costs.add(tuple(self.facts.costs(record).values()))
            complete = complete and bool(record.hash)  # a trial without a hash may have one later
            self._costs_to += complete
        return self._costs


class Neighbour(RandomTrial):
    """The parameters of another trial, some of them drawn anew."""

    def __init__(self, params: dict[str, Any], source: random.Random, changed: float = CHANGED) -> None:
        super().__init__(source)
        self.kept = {name: value for name, value in params.items() if source.random() >= changed}

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        """Return the parent's value, or draw one."""
        drawn = super().suggest_categorical(name, choices)
        return self._keep(name, drawn, self.kept.get(name) in choices)

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int = 1) -> int:
        """Return the parent's value, or draw one."""
        drawn = super().suggest_int(name, low, high, step=step)
        return int(self._keep(name, drawn, self.kept.get(name) in range(low, high + 1, step)))

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        """Return the parent's value, or draw one."""
        drawn = super().suggest_float(name, low, high, log=log)
        value = self.kept.get(name)
        return float(self._keep(name, drawn, isinstance(value, float) and low <= value <= high))

    def _keep(self, name: str, drawn: Any, fits: bool) -> Any:
        if fits and name in self.kept:
            self.params[name] = self.kept[name]
        return self.params[name]
