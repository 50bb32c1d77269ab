"""What finishing a run is expected to add to the hypervolume of the front, its costs being exact.

Only the loss is uncertain, so that the expectation is over one normal variable: Gauss-Hermite quadrature of
the exclusive hypervolume of the point (expected hypervolume improvement, Emmerich et al. 2006, with known
costs).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from studies.stats.hypervolume import REFERENCE, hypervolume
from studies.stats.pareto import undominated
from studies.surrogates.learning_curves import Forecast
from studies.surrogates.observations import Evidence, Floats

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(3)
HOPEFUL = 32  # whose gains are worked out, to find the largest
ROUNDING = 1e-9  # of volumes
ORDERS = 4.0  # costs whose largest is so many times the smallest are compared by their logarithm


class Box:
    """Objectives scaled to [0, 1] over all that is known, and the front in it."""

    def __init__(self, evidence: Evidence, told: Forecast, more_costs: Floats | None = None) -> None:
        """`more_costs`: (m, costs) of architectures that are only thought of, to lie inside as well."""
        known = told.mean[np.isfinite(told.sd)]
        self.low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        self.span = max(high - self.low, 1e-9)
        costs = evidence.costs if more_costs is None else np.concatenate([evidence.costs, more_costs])
        self.costs = _scaled(costs)  # (n + m, costs)
        finished = np.flatnonzero(evidence.finished & evidence.feasible)
        points = np.column_stack([self._scale(told.mean[finished]), self.costs[finished]])
        self.front = points[undominated(points)]

    def assume(self, means: Floats, costs: Floats) -> None:
        """Takes architectures with these scaled costs for finished, their losses as expected."""
        points = np.concatenate([self.front, np.column_stack([self._scale(means), costs])])
        self.front = points[undominated(points)]

    def gain(self, mean: float, sd: float, costs: Floats) -> float:
        """Expected gain of an architecture with these scaled costs; infinite where nothing is told of it."""
        if not np.isfinite(sd):
            return np.inf
        losses = self._scale(mean + sd * NODES)
        if (self.front <= np.array([losses.min(), *costs])).all(axis=1).any():
            return 0.0
        if len(costs) == 2:
            gains = _exclusive_at(losses, costs, self.front)
        else:
            gains = np.array([_exclusive(np.array([loss, *costs]), self.front) for loss in losses])
        return float(np.dot(WEIGHTS, gains) / WEIGHTS.sum())

    def best(self, told: Forecast, costs: Floats) -> int:
        """The first with the largest gain, of the most hopeful architectures with these scaled costs.

        Gains take long: they are worked out from the most hopeful on, as long as one may be the largest.
        """
        hopes = self._hopes(told, costs)
        gains = np.full(len(hopes), -np.inf)
        for row in np.argsort(-hopes, kind="stable")[:HOPEFUL]:
            if hopes[row] < gains.max():
                break
            gains[row] = self.gain(told.mean[row], told.sd[row], costs[row])
        return int(np.argmax(gains))

    def _hopes(self, told: Forecast, costs: Floats) -> Floats:
        """(m,) no less than the gains: the front is taken for the one of its points that leaves the least."""
        losses = self._scale(told.mean[:, None] + told.sd[:, None] * NODES)  # (m, nodes)
        points = np.concatenate(
            [losses[..., None], np.repeat(costs[:, None], len(NODES), axis=1)], axis=2
        )  # (m, nodes, objectives)
        whole = np.maximum(REFERENCE - points, 0).prod(axis=2)
        shared = np.maximum(REFERENCE - np.maximum(points[:, :, None], self.front), 0).prod(axis=3)
        left = whole - shared.max(axis=2, initial=0.0)
        hopes = np.where(np.isfinite(told.sd), left @ WEIGHTS / WEIGHTS.sum() + ROUNDING, np.inf)
        return np.asarray(hopes)

    def _scale(self, losses: Floats) -> Floats:
        return np.asarray((losses - self.low) / self.span)


def expected_gains(evidence: Evidence, told: Forecast, rows: Sequence[int]) -> Floats:
    """(len(rows),) in shares of the box; infinite where there is no forecast yet."""
    box, known = _box(evidence, told)
    for row in rows:
        if row not in known:
            known[row] = box.gain(told.mean[row], told.sd[row], box.costs[row])
    return np.array([known[row] for row in rows])


@lru_cache(maxsize=1)  # while a run stops, the same evidence is asked about twice
def _box(evidence: Evidence, told: Forecast) -> tuple[Box, dict[int, float]]:
    """The box, and room for the gains of its rows."""
    return Box(evidence, told), {}


def _scaled(costs: Floats) -> Floats:
    """Columns brought to [0, 1]."""
    columns = []
    for column in costs.T:
        if 0 < ORDERS * column.min() < column.max():
            column = np.log(column)
        columns.append((column - column.min()) / max(np.ptp(column), 1e-12))
    return np.stack(columns, axis=1) if columns else costs


def _exclusive_at(losses: Floats, costs: Floats, front: Floats) -> Floats:
    """(losses,) the same as `_exclusive` of points that share two costs, of all of them at once.

    Between the front's costs, the best loss that it has for no more of either is constant.
    """
    if (costs >= REFERENCE).any():
        return np.zeros(len(losses))
    covered = front[(front < REFERENCE).all(axis=1)]
    there = np.maximum(covered[:, 1:], costs)
    one, two = (np.sort(np.append(there[:, column], costs[column])) for column in (0, 1))
    best = np.full((len(one), len(two)), REFERENCE)
    places = np.searchsorted(one, there[:, 0]), np.searchsorted(two, there[:, 1])
    np.minimum.at(best, places, covered[:, 0])
    best = np.minimum.accumulate(np.minimum.accumulate(best, axis=0), axis=1)
    wide, deep = (np.diff(side, append=REFERENCE) for side in (one, two))
    return np.array([wide @ np.maximum(best - loss, 0) @ deep for loss in losses])


def _exclusive(point: Floats, front: Floats) -> float:
    """Volume that the point dominates and the front does not."""
    sides = REFERENCE - point
    if (sides <= 0).any():
        return 0.0
    covered = np.maximum(front, point)  # what the front dominates of the point's own box
    covered = covered[(covered < REFERENCE).all(axis=1)]
    whole = float(np.prod(sides))
    if not len(covered):
        return whole
    if covered.shape[1] == 1:
        return whole - float(REFERENCE - covered.min())
    return max(0.0, whole - hypervolume(covered, np.full(covered.shape[1], REFERENCE)))
