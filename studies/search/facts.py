"""Exact facts about architectures before any training: costs, descriptors, and which ones a space allows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from search_spaces import SearchSpace
from search_spaces.enumeration import every_architecture
from studies.study.trial_record import TrialRecord
from studies.surrogates.descriptors import features
from surgery.architecture import Architecture

COUNTABLE = 5000  # settings of a space that are enumerated, to know when all are tried

# objectives that are known before training by name, and descriptors, of an architecture
Facts = tuple[dict[str, float], tuple[float, ...]]


class Candidate(NamedTuple):
    """An allowed architecture, the parameters that give it, and what is known of it before training."""

    params: dict[str, Any]
    architecture: Architecture
    costs: dict[str, float]
    features: tuple[float, ...]


class ArchitectureFacts:
    """Exact costs and descriptors of a space's architectures; those of trials are cached by hash.

    They hold for every study of the space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._exact = [item.name for item in space.objectives if not item.measured]
        self._by_hash: dict[str, Facts] = {}

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

    @cached_property
    def _allowed(self) -> dict[str, tuple[dict[str, Any], Architecture]] | None:
        """Parameters and every allowed architecture by hash; None if there are too many to list."""
        size = self.space.size()
        if size.continuous or size.count > COUNTABLE:
            return None
        every = every_architecture(self.space)
        return {arch.hash: (params, arch) for params, arch in every if not self.space.violations(arch)}

    @cached_property
    def every(self) -> list[Candidate] | None:
        """Every allowed architecture, described; None if there are too many to list."""
        if self._allowed is None:
            return None
        return [Candidate(params, arch, *self.describe(arch)) for params, arch in self._allowed.values()]

    @property
    def countable(self) -> int | None:
        """Number of architectures that the space allows; None if there are too many to list."""
        return len(self._allowed) if self._allowed is not None else None

    def untried(self, records: Sequence[TrialRecord]) -> list[dict[str, Any]] | None:
        """Return parameters of allowed architectures that no trial has; None if they are too many to list."""
        if self._allowed is None:
            return None
        known = {record.hash for record in records}
        return [params for name, (params, _) in self._allowed.items() if name not in known]
