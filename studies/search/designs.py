"""Choosing designs of a pretrained model: predicted by scores, exact in their costs.

First come the designs to beat and the best predicted design of every budget, then, of the solver's pools, the
design with the largest expected improvement over what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from search_spaces import SearchSpace
from search_spaces.replacements import KEEP, Replacements
from studies.search.comparisons import Comparison, Kl, comparisons
from studies.selection.grid import budgets
from studies.selection.problem import Selection, Solution
from studies.selection.solve import solve
from studies.storage.attributes import BASELINE, SUGGESTED_BY
from studies.study.settings import MILP
from studies.study.trial_record import DONE, TrialRecord
from surgery.architecture.costs import cost

BUDGETS = 8  # of each cost
POOL = 4  # designs of each budget
GAP = 1e-3  # share of the score by which a design may miss the optimum: less than scores are known to
DISTANCE = 2  # parts in which the designs of a pool differ at least
NARROW = 0.05  # spread of log(measured / predicted) that is assumed at least
BROAD = 0.5  # likewise, before anything was measured


class Design(NamedTuple):
    """A design to measure: parameters of its trial, and what is noted with them."""

    params: dict[str, Any]
    attributes: dict[str, Any]


class DesignChooser:
    """Chooses the next design of a space over a pretrained model.

    The order is decided by the study's trials alone, so that a resumed study equals an uninterrupted one.
    """

    def __init__(self, space: SearchSpace, kl: Kl) -> None:
        """Set up the problem; it is solved when the first design is asked for.

        Args:
            space: the space, with replacements.
            kl: score of every replacement in nats/token by (part's name, label).
        """
        assert space.replacements is not None
        self.space, self.kl = space, kl
        self.replacements: Replacements = space.replacements
        named = [item.name for item in space.objectives if item.metric.analytic]
        self.metrics = list(dict.fromkeys([*named, *(item.name for item in space.constraints)]))

    def suggest(self, records: Sequence[TrialRecord]) -> Design | None:
        """Return the next design that no trial has; None if all of them are taken."""
        taken = {record.hash for record in records}
        for name, params, digest in self._first:
            if digest not in taken:
                attributes = {SUGGESTED_BY: MILP} if name is None else {BASELINE: name}
                return Design(params, attributes)
        left = [solution for solution in self._pool if self._hash(solution) not in taken]
        if not left:
            return None
        gains = self._expected_improvement(left, records)
        return Design(self._params(left[int(np.argmax(gains))]), {SUGGESTED_BY: MILP})

    @cached_property
    def selection(self) -> Selection:
        """The problem for the solver: scores and exact costs of every option of every part."""
        parts = self.replacements.parts
        return Selection(
            scores=[
                np.array([0.0 if label == KEEP else self.kl[part.name, label] for label in part.labels])
                for part in parts
            ],
            costs={
                metric: [np.array(row, dtype=np.int64) for row in self.replacements.differences(metric)]
                for metric in self.metrics
            },
            base={metric: cost(self.replacements.model, metric) for metric in self.metrics},
        )

    @cached_property
    def solutions(self) -> list[list[Solution]]:
        """The pool of every budget that some design meets, the best first.

        The budgets are what each design to beat costs, so that there is an answer to it, then a grid.
        """
        objectives = [item.name for item in self.space.objectives if item.metric.analytic]
        fixed = self._constraints()
        grid = [
            {name: _within(fixed.get(name), limits.get(name)) for name in {**fixed, **limits}}
            for limits in self._rival_costs(objectives)
        ]
        grid += budgets(self.selection, objectives, BUDGETS * len(objectives), fixed)
        pools = [solve(self.selection, limits, pool=POOL, distance=DISTANCE, gap=GAP) for limits in grid]
        return [pool for pool in pools if pool]

    @cached_property
    def _rivals(self) -> list[Comparison]:
        """The designs to beat, at budgets of the first cost objective."""
        costs = [item.name for item in self.space.objectives if item.metric.analytic]
        return list(comparisons(self.replacements, self.kl, costs[0])) if costs else []

    def _rival_costs(self, metrics: Sequence[str]) -> list[dict[str, tuple[float | None, float | None]]]:
        """Return the exact costs of the designs to beat as limits, each once."""
        costs: dict[tuple[int, ...], dict[str, tuple[float | None, float | None]]] = {}
        for rival in self._rivals:
            architecture = self.replacements.architecture(rival.choice)
            values = tuple(cost(architecture, metric) for metric in metrics)
            costs[values] = {
                metric: (None, float(value)) for metric, value in zip(metrics, values, strict=True)
            }
        return list(costs.values())

    @cached_property
    def _first(self) -> list[tuple[str | None, dict[str, Any], str]]:
        """(name of a design to beat, parameters, hash): what is measured whatever the results are."""
        designs: list[tuple[str | None, dict[str, str]]] = [("original", {})]
        designs += [(item.name, item.choice) for item in self._rivals]
        result = [(name, *self._named(choice)) for name, choice in designs]
        best = [(None, self._params(pool[0]), self._hash(pool[0])) for pool in self.solutions]
        return [*result, *best]

    @cached_property
    def _pool(self) -> list[Solution]:
        return list({solution.choice: solution for pool in self.solutions for solution in pool}.values())

    def _expected_improvement(
        self, solutions: Sequence[Solution], records: Sequence[TrialRecord]
    ) -> list[float]:
        """Return by how much each solution is expected to lower log KL against designs that cost no more.

        Scores only nearly add up: log(measured / predicted) of the designs measured so far gives the mean
        and the spread of what is to be expected of others.
        """
        objectives = [item.name for item in self.space.objectives if item.metric.analytic]
        known = [record for record in records if record.state == DONE and record.feasible and record.metrics]
        points = [(record.metrics["kl"], [record.metrics[name] for name in objectives]) for record in known]
        ratios = [
            math.log(record.metrics["kl"] / predicted)
            for record in known
            if (predicted := self._predicted(record)) > 0 < record.metrics["kl"]
        ]
        shift = float(np.median(ratios)) if ratios else 0.0
        spread = max(NARROW, float(np.std(ratios))) if len(ratios) > 2 else BROAD
        gains = []
        for solution in solutions:
            costs = [solution.costs[name] for name in objectives]
            rivals = [kl for kl, theirs in points if all(a <= b for a, b in zip(theirs, costs, strict=True))]
            best = math.log(max(min(rivals, default=math.inf), 1e-9)) if rivals else None
            mean = math.log(max(solution.score, 1e-9)) + shift
            gains.append(math.inf if best is None else _improvement(best - mean, spread))
        return gains

    def _predicted(self, record: TrialRecord) -> float:
        """Return the summed scores of a trial's design; 0 if it is not in the space."""
        choice = record.params
        if any(part.name not in choice for part in self.replacements.parts):
            return 0.0
        return sum(self.kl.get((part.name, choice[part.name]), 0.0) for part in self.replacements.parts)

    def _constraints(self) -> dict[str, tuple[float | None, float | None]]:
        limits: dict[str, tuple[float | None, float | None]] = {}
        for item in self.space.constraints:
            limits[item.name] = _within(limits.get(item.name), item.interval)
        return limits

    def _params(self, solution: Solution) -> dict[str, Any]:
        return {
            part.name: part.labels[index]
            for part, index in zip(self.replacements.parts, solution.choice, strict=True)
        }

    def _named(self, choice: dict[str, str]) -> tuple[dict[str, Any], str]:
        params = {part.name: choice.get(part.name, KEEP) for part in self.replacements.parts}
        return params, self.replacements.architecture(params).hash

    def _hash(self, solution: Solution) -> str:
        if solution.choice not in self._hashes:
            self._hashes[solution.choice] = self.replacements.architecture(self._params(solution)).hash
        return self._hashes[solution.choice]

    @cached_property
    def _hashes(self) -> dict[tuple[int, ...], str]:
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
