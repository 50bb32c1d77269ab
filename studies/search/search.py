"""A search: a study, and what this process knows and decides about it."""

from __future__ import annotations

from collections.abc import Sequence

from studies.search.designs import DesignChooser
from studies.search.facts import ArchitectureFacts
from studies.search.gain_sampler import GainSampler, Outlook
from studies.search.observe import LOSSES, Observer
from studies.search.samplers import SeededSampler
from studies.search.stopping_rules import STOPPING_RULES
from studies.study import Study
from studies.study.settings import GAIN
from studies.study.trial_record import TrialRecord
from studies.surrogates.observations import Observations


class Search:
    """The memory and the rules of a search over a study; every process that takes trials makes its own.

    Attributes:
        study: the state on disk.
        sampler: draws the parameters of new trials; also set on the Optuna study.
        rule: decides at each rung which trials are paused, and which paused ones resume.
        facts: exact costs and descriptors by architecture hash.
        observer: observations as arrays, renewed as trials change.
        gain: the sampler `gain`, which chooses among candidates by expected hypervolume improvement.
        chooser: chooses designs of a pretrained model, once its library is scored.
        most_runs: how many runs of one architecture are possible; None: any number.
        checkpoints_gone: numbers of paused trials that can no longer resume.
        compares: whether losses at rungs say anything about the objectives; without them nothing is paused.
    """

    def __init__(self, study: Study, facts: ArchitectureFacts | None = None) -> None:
        """Begin a search; `facts` are what another one knows of the same space."""
        self.study, self.space, self.settings = study, study.space, study.settings
        self.sampler = SeededSampler(self.settings.sampler, self.settings.seed)
        study.inner.sampler = self.sampler
        self.rule = STOPPING_RULES[self.settings.stopping]
        self.facts = ArchitectureFacts(self.space) if facts is None else facts
        self.observer = Observer(self.space, self.facts)
        self.gain = GainSampler(self.space, self.settings.seed, self.facts, self.observer)
        self.chooser: DesignChooser | None = None
        self.most_runs: int | None = None
        self.checkpoints_gone: set[int] = set()
        self.compares = any(item.name in LOSSES for item in self.space.objectives)

    def observe(self, records: Sequence[TrialRecord]) -> Observations:
        """Return the observations in these records, one row per trial that has any."""
        return self.observer.observe(records)

    def look(self, records: Sequence[TrialRecord], apart: int | None = None) -> Outlook | None:
        """Return what runs are worth beside the best new architecture, if that is what the rule goes by.

        None: the rule or the sampler weighs nothing, or too little is known.
        """
        return self.gain.look(records, apart) if self.rule.weighs and self.sampler.name == GAIN else None
