"""The sampler `gain`: suggests the architecture with the largest expected hypervolume improvement (EHVI).

Costs are exact and losses are extrapolated from learning curves. The candidates are random architectures and
neighbours of those on the front, without known ones and ones that break a constraint. Optuna's samplers model
every objective; here the costs need no model.

Late in a study most of what looks like an improvement is luck of a seed. So the loss that a candidate is
expected to have over all seeds is compared with the front of the expected losses, not of the measured ones
(as in noisy expected improvement, Letham et al. 2019, with the mean in place of draws).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces import SearchSpace
from studies.search.candidates import CandidatePool
from studies.search.facts import ArchitectureFacts
from studies.search.observe import LOSSES, Observer
from studies.study.trial_record import RUNNING, WAITING, TrialRecord
from studies.surrogates.expected_improvement import NormalisedObjectives, free_of_noise, scaled
from studies.surrogates.learning_curves import FEWEST, Prediction, extrapolate
from studies.surrogates.observations import Floats, Observations


@dataclass(frozen=True, eq=False)
class Outlook:
    """The next steps of a search in one currency: EHVI, with losses freed of the noise of the seed.

    Attributes:
        params: parameters of the best new architecture; None: there is none.
        gain: its EHVI.
        unsure: standard deviation in nats/token of the expected loss of a typical new architecture; infinite
            without one.
        observations: (n) runs, as they were.
        ends: (n) their expected losses.
        normalised: the front that gains are over, as if all runs of workers had finished.
    """

    params: dict[str, Any] | None
    gain: float
    unsure: float
    observations: Observations
    ends: Prediction
    normalised: NormalisedObjectives

    def worth(self, rows: Sequence[int]) -> Floats:
        """Return the EHVI (len(rows),) of finishing these runs."""
        return np.array(
            [
                self.normalised.expected_improvement(
                    self.ends.mean[row], self.ends.sd[row], self.normalised.costs[row]
                )
                for row in rows
            ]
        )


class GainSampler:
    """Chooses the next architecture of a space.

    Attributes:
        pool: what it chooses from.
    """

    def __init__(self, space: SearchSpace, seed: int, facts: ArchitectureFacts, observer: Observer) -> None:
        self.space, self.facts, self.observer = space, facts, observer
        self.pool = CandidatePool(space, seed, facts)
        self._key: tuple[Observations, int, tuple[int, ...]] | None = None  # of the last look: a worker
        self._outlook: Outlook | None = None  # that takes a trial asks twice

    def suggest(self, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
        """Return parameters of the next trial; None: no new candidate."""
        outlook = self.look(records)
        return self._spread(records) if outlook is None else outlook.params

    def _spread(self, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
        """Return the candidate whose costs are the farthest from those of all trials: while no loss is known,
        exact costs are."""
        pool = self.pool.new(records)
        taken = [self.facts.costs(record) for record in records if _may_count(record)]
        if not pool:
            return None
        if not taken:
            return pool[0].params
        costs = scaled(np.array([[*of.values()] for of in [*(item.costs for item in pool), *taken]]))
        apart = np.square(costs[: len(pool), None] - costs[None, len(pool) :]).sum(axis=2).min(axis=1)
        return pool[int(apart.argmax())].params

    def look(self, records: Sequence[TrialRecord], apart: int | None = None) -> Outlook | None:
        """Return the best candidate and what runs are worth; None: too few observations.

        Args:
            records: all of the study's trials.
            apart: number of a running trial that may be paused, whose end is not counted on.
        """
        observations = self.observer.observe(records)
        # What runs of other workers are expected to add must not be added twice, though they have no results.
        started = [
            record
            for record in records
            if record.state in (RUNNING, WAITING) and _may_count(record) and record.number != apart
        ]
        key = observations, len(records), tuple(record.number for record in started)
        if key != self._key:
            self._key, self._outlook = key, self._look(observations, records, started)
        return self._outlook

    def _look(
        self, observations: Observations, records: Sequence[TrialRecord], started: Sequence[TrialRecord]
    ) -> Outlook | None:
        prediction = extrapolate(observations)
        if np.isfinite(prediction.sd).sum() < FEWEST:
            return None
        pool = self.pool.new(records)
        objectives = self.space.objectives
        signs = {item.name: 1 if item.direction == "min" else -1 for item in objectives}
        known = [(item.costs, item.features) for item in pool] + [self.facts.of(record) for record in started]
        names = [name for name in signs if name not in LOSSES]
        costs = np.array([[signs[name] * of[name] for name in names] for of, _ in known])
        costs = costs.reshape(len(known), len(names))
        described = np.array([features for _, features in known])
        described = described.reshape(len(known), observations.features.shape[1])
        normalised, expected, freed = free_of_noise(observations, prediction, costs, described)
        costs = normalised.costs[len(observations) :]
        ends = dict(zip(observations.numbers.tolist(), freed.mean.tolist(), strict=True))
        reached = np.array([ends.get(record.number, np.nan) for record in started])
        guessed = expected.mean[len(pool) :]
        normalised.assume(np.where(np.isnan(reached), guessed, reached), costs[len(pool) :])
        if not pool:
            return Outlook(None, 0.0, np.inf, observations, freed, normalised)
        ahead = Prediction(expected.mean[: len(pool)], expected.sd[: len(pool)])
        index, gain = normalised.best(ahead, costs[: len(pool)])
        unsure = float(np.median(ahead.sd))
        return Outlook(pool[index].params, gain, unsure, observations, freed, normalised)


def _may_count(record: TrialRecord) -> bool:
    """Return whether a run is no replicate and its architecture may be on the front."""
    return bool(record.hash) and record.feasible and record.repeat_of is None
