"""Exact facts about architectures before any training: costs, descriptors, and which ones a space allows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from search_spaces import SearchSpace
from search_spaces.enumeration import every_architecture
from studies.study.trial_record import INFEASIBLE, TrialRecord
from studies.surrogates.descriptors import features
from surgery.architecture import Architecture

COUNTABLE = 5000  # settings of a space that are enumerated, to know when all are tried

# objectives that are known before training by name, and descriptors, of an architecture
Facts = tuple[dict[str, float], tuple[float, ...]]


class ArchitectureFacts:
    """Exact costs and descriptors of a space's architectures; those of trials are cached by hash."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._exact = [item.name for item in space.objectives if not item.measured]
        self._by_hash: dict[str, Facts] = {}
        self._costs: set[tuple[float, ...]] = set()  # of the first `_costs_to` trials
        self._costs_to = 0

    def of(self, known: TrialRecord | Architecture) -> Facts:
        """Return (costs by objective, descriptors) of a trial's architecture, computed once per hash."""
        if known.hash not in self._by_hash:
            architecture = known if isinstance(known, Architecture) else known.build()
            self._by_hash[known.hash] = self.describe(architecture)
        return self._by_hash[known.hash]

    def costs(self, record: TrialRecord) -> dict[str, float]:
        """Return the trial's objectives that are known before training, by name."""
        return self.of(record)[0]

    def features(self, record: TrialRecord) -> tuple[float, ...]:
        """Return the descriptors of the trial's architecture."""
        return self.of(record)[1]

    def describe(self, architecture: Architecture) -> Facts:
        """Return the facts of any architecture, without computing its hash and without keeping them."""
        return {name: self.space.cost(architecture, name) for name in self._exact}, features(architecture)

    def known_costs(self, records: Sequence[TrialRecord]) -> set[tuple[float, ...]]:
        """Return the costs of all trials that may be trained, as tuples; extended from call to call."""
        complete = True
        for record in records[self._costs_to :]:
            if record.hash and record.state != INFEASIBLE:
                self._costs.add(tuple(self.costs(record).values()))
            complete = complete and bool(record.hash)  # a trial without a hash may have one later
            self._costs_to += complete
        return self._costs

    @cached_property
    def _allowed(self) -> dict[str, dict[str, Any]] | None:
        """Parameters of every allowed architecture by hash; None if there are too many to list."""
        size = self.space.size()
        if size.continuous or size.count > COUNTABLE:
            return None
        every = every_architecture(self.space)
        return {arch.hash: params for params, arch in every if not self.space.violations(arch)}

    @property
    def countable(self) -> int | None:
        """Number of architectures that the space allows; None if there are too many to list."""
        return len(self._allowed) if self._allowed is not None else None

    def untried(self, records: Sequence[TrialRecord]) -> list[dict[str, Any]] | None:
        """Return parameters of allowed architectures that no trial has; None if they are too many to list."""
        if self._allowed is None:
            return None
        known = {record.hash for record in records}
        return [params for name, params in self._allowed.items() if name not in known]
