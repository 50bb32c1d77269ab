"""Choosing designs of a pretrained model: predicted by scores, exact in their costs, counted in steps.

First come the designs to beat and the best predicted design of every budget, then, of the solver's pools, the
design with the largest expected improvement over what was measured, and in the end neighbours of the front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from search_spaces import SearchSpace
from search_spaces.replacements import KEEP, Replacements
from studies.search.comparisons import Comparison, comparisons
from studies.search.prediction import WORST, Known, Prediction, Scored
from studies.selection.calibration import Calibration
from studies.selection.grid import budgets
from studies.selection.problem import Choice, Limits, Selection, Solution, within
from studies.storage.attributes import BASELINE, SUGGESTED_BY
from studies.study.settings import MILP
from studies.study.trial_record import DONE, TrialRecord, front_records
from surgery.architecture.metrics import parse_metric

BUDGETS = 8  # of each cost
POOL = 2  # designs of each budget by the scores on text
PARENTS = 16  # designs of the front whose neighbours are looked at
# What is minimised beside the text's KL divergence: that at the answers of retrieval prompts, times these.
# Text hardly tells what a model can still retrieve, and healing text does not teach it.
WEIGHTS = (0.03, 0.3)


class Design(NamedTuple):
    """A design to measure: parameters of its trial, and what is noted with them."""

    params: dict[str, Any]
    attributes: dict[str, Any]


class DesignChooser:
    """Chooses the next design of a space over a pretrained model.

    The order is decided by the study's trials alone, so that a resumed study equals an uninterrupted one.
    """

    def __init__(self, space: SearchSpace, text: Scored, answers: Scored | None = None) -> None:
        """Set up the problem; it is solved when the first design is asked for.

        Args:
            space: the space, with replacements.
            text: what is known of every replacement on text.
            answers: the same at the answers of retrieval prompts; None: designs are chosen by text alone.
        """
        assert space.replacements is not None
        self.space, self.kl = space, text.scores
        self.replacements: Replacements = space.replacements
        self.objectives = [item.name for item in space.objectives if item.metric.is_cost]
        metrics = list(dict.fromkeys([*self.objectives, *(item.name for item in space.constraints)]))
        known = Known(self.replacements, text)
        self.predictions = [Prediction(self.replacements, metrics, known, times=space.times)]
        if answers is not None:
            also = Known(self.replacements, answers)
            self.predictions += [
                Prediction(self.replacements, metrics, known, also, weight, space.times) for weight in WEIGHTS
            ]

    def suggest(self, records: Sequence[TrialRecord]) -> Design | None:
        """Return the next design that no trial has; None if all of them are taken, neighbours included."""
        taken = {record.hash for record in records}
        for name, params, digest in self._first:
            if digest not in taken:
                attributes = {SUGGESTED_BY: MILP} if name is None else {BASELINE: name}
                return Design(params, attributes)
        left = [solution for solution in self.solutions if self._hash(solution.choice) not in taken]
        left = left or self._neighbours(records)
        if not left:
            return None
        gains = self._expected_improvements(left, records)
        return Design(self._params(left[int(np.argmax(gains))].choice), {SUGGESTED_BY: MILP})

    @property
    def selection(self) -> Selection:
        """The options of every part with their scores on text and exact costs."""
        return self.predictions[0].selection

    @cached_property
    def pools(self) -> list[list[Solution]]:
        """The designs of every budget, the best predicted on text first; those beyond `WORST` are left out.

        The budgets are what each design to beat costs, so that there is an answer to it, then a grid.
        """
        pools = [self._within_reach(self.predictions[0].best(limits, POOL)) for limits in self._grid]
        return [pool for pool in pools if pool]

    @cached_property
    def solutions(self) -> list[Solution]:
        """The designs of all budgets, by every prediction, each once."""
        others = [
            self._within_reach(prediction.best(limits, 1))
            for prediction in self.predictions[1:]
            for limits in self._grid
        ]
        return list({item.choice: item for pool in [*self.pools, *others] for item in pool}.values())

    def predict(self, choice: Choice) -> float:
        """Return the predicted KL of a design on text in nats/token."""
        return self.predictions[0].predict(choice)

    def _within_reach(self, pool: Sequence[Solution]) -> list[Solution]:
        return [item for item in pool if self.predict(item.choice) < WORST]

    @cached_property
    def _grid(self) -> list[Limits]:
        """The limits of every budget."""
        fixed = self._constraints()
        rivals: list[Limits] = [
            {name: _within(fixed.get(name), limits.get(name)) for name in {**fixed, **limits}}
            for limits in self._rival_costs()
        ]
        return rivals + budgets(self.selection, self.objectives, BUDGETS * len(self.objectives), fixed)

    @cached_property
    def _rivals(self) -> list[Comparison]:
        """The designs to beat, at budgets of each cost objective; hopeless ones are left out."""
        if not self.objectives:
            return []

        def predict(labels: Mapping[str, str]) -> float:
            return self.predict(self._choice(labels))

        rivals = comparisons(self.replacements, self.kl, self.objectives, predict, self.space.times)
        return [item for item in rivals if predict(item.choice) < WORST]

    def _rival_costs(self) -> list[dict[str, tuple[float | None, float | None]]]:
        """Return the exact costs of the designs to beat as limits, each once."""
        costs: dict[tuple[int, ...], dict[str, tuple[float | None, float | None]]] = {}
        for rival in self._rivals:
            total = self.selection.total(self._choice(rival.choice))
            values = tuple(total[metric] for metric in self.objectives)
            costs[values] = {
                metric: (None, value) for metric, value in zip(self.objectives, values, strict=True)
            }
        return list(costs.values())

    @cached_property
    def _first(self) -> list[tuple[str | None, dict[str, Any], str]]:
        """(name of a design to beat, parameters, hash): what is measured whatever the results are."""
        designs: list[tuple[str | None, Choice]] = [("original", self._choice({}))]
        designs += [(item.name, self._choice(item.choice)) for item in self._rivals]
        designs += [(None, pool[0].choice) for pool in self.pools]
        return [(name, self._params(choice), self._hash(choice)) for name, choice in designs]

    def _neighbours(self, records: Sequence[TrialRecord]) -> list[Solution]:
        """Return designs that differ in one part from measured ones on the front.

        They meet the constraints, and no trial has their parameters. The solver's own come first.
        """
        taken = {self._choice(record.params) for record in records if self._is_design(record)}
        front = front_records(self._measured(records), self.space.objectives)
        limits = self._constraints()
        choices = {
            (*parent[:index], option, *parent[index + 1 :]): None
            for parent in (self._choice(record.params) for record in front[:PARENTS])
            for index, part in enumerate(self.replacements.parts)
            for option in range(len(part.options))
        }
        near = [
            Solution(choice, self.predict(choice), self.selection.total(choice))
            for choice in choices
            if choice not in taken
        ]
        return [item for item in near if item.score < WORST and within(item.costs, limits)]

    def _expected_improvements(
        self, solutions: Sequence[Solution], records: Sequence[TrialRecord]
    ) -> list[float]:
        """Return by how much each solution is expected to lower a logarithm against those that cost no more.

        It is the logarithm of the KL divergence on text, with each of the weights of answers; the largest
        counts. The designs measured so far show how far predictions are off, and how unsure others are.
        """
        known = self._measured(records)
        choices = [self._choice(record.params) for record in known]
        costs = [[self._steps(record, name) for name in self.objectives] for record in known]
        theirs = np.array(costs).reshape(len(known), 1, len(self.objectives))
        ours = np.array([[item.costs[name] for name in self.objectives] for item in solutions])
        no_dearer = (theirs <= ours).all(2)  # (known, solutions)
        gains = np.full(len(solutions), -np.inf)
        for prediction in self.predictions:
            measured = np.array([prediction.measured(record.metrics) for record in known])
            calibration = Calibration([prediction.predict(choice) for choice in choices], measured.tolist())
            means, deviations = calibration.predict([prediction.predict(item.choice) for item in solutions])
            best = np.where(no_dearer, measured[:, None], np.inf).min(0, initial=np.inf)
            best = np.maximum(np.where(np.isfinite(best), best, WORST), 1e-9)
            variance = np.log1p((deviations / means) ** 2)  # of the logarithm
            gap, spread = np.log(best / means) + variance / 2, np.sqrt(variance)
            gains = np.maximum(gains, [_improvement(*at) for at in zip(gap, spread, strict=True)])
        return [float(gain) for gain in gains]

    def _steps(self, record: TrialRecord, metric: str) -> int:
        """Return a measured design's cost in whole steps, as the solver counts."""
        return round(record.metrics[metric] * parse_metric(metric)[0].steps)

    def _is_design(self, record: TrialRecord) -> bool:
        """Return whether a trial is a design of the space, measured or not, by its parameters."""
        return all(record.params.get(part.name) in part.labels for part in self.replacements.parts)

    def _measured(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the trials that measured a design within the constraints."""
        return [
            record for record in records
            if record.state == DONE and record.feasible and self._is_design(record) and "kl" in record.metrics
        ]  # fmt: skip

    def _constraints(self) -> dict[str, tuple[float | None, float | None]]:
        limits: dict[str, tuple[float | None, float | None]] = {}
        for item in self.space.constraints:
            limits[item.name] = _within(limits.get(item.name), item.interval)
        return limits

    def _choice(self, labels: Mapping[str, str]) -> Choice:
        return tuple(part.labels.index(labels.get(part.name, KEEP)) for part in self.replacements.parts)

    def _params(self, choice: Choice) -> dict[str, Any]:
        return {
            part.name: part.labels[index] for part, index in zip(self.replacements.parts, choice, strict=True)
        }

    def _hash(self, choice: Choice) -> str:
        if choice not in self._hashes:
            self._hashes[choice] = self.replacements.architecture(self._params(choice)).hash
        return self._hashes[choice]

    @cached_property
    def _hashes(self) -> dict[Choice, str]:
        return {}


def _within(
    one: tuple[float | None, float | None] | None, other: tuple[float | None, float | None] | None
) -> tuple[float | None, float | None]:
    """Return the interval that both allow."""
    lows = [item[0] for item in (one, other) if item is not None and item[0] is not None]
    highs = [item[1] for item in (one, other) if item is not None and item[1] is not None]
    return max(lows, default=None), min(highs, default=None)


def _improvement(gap: float, spread: float) -> float:
    """Return E[max(0, gap + spread * z)], z being standard normal."""
    at = gap / spread
    density = math.exp(-0.5 * at * at) / math.sqrt(2 * math.pi)
    return gap * 0.5 * math.erfc(-at / math.sqrt(2)) + spread * density
