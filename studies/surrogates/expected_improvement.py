"""Expected hypervolume improvement (EHVI) of finishing a run, its costs being exact.

Only the loss is uncertain, so that the expectation is over one normal variable: Gauss-Hermite quadrature of
the exclusive hypervolume of the point (expected hypervolume improvement, Emmerich et al. 2006, with known
costs).

Why not BoTorch: it loads torch, which a search does without, and its EHVI takes every objective as uncertain,
also costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from studies.stats.hypervolume import REFERENCE, hypervolume
from studies.stats.pareto import undominated
from studies.surrogates.learning_curves import Prediction, predict_expected
from studies.surrogates.observations import Floats, Observations

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(3)
MAX_EXACT = 32  # candidates whose EHVI is computed; the rest are ruled out by an upper bound
ROUNDING = 1e-9  # of volumes
ORDERS = 4.0  # costs whose largest is so many times the smallest are compared by their logarithm


class NormalisedObjectives:
    """Objectives scaled to [0, 1] over all known architectures, and the front in this scale.

    Attributes:
        costs: (n + m, costs) scaled costs of the observations, then of `more_costs`.
        front: (points, objectives) scaled results of the finished runs that none dominates; the loss first.
    """

    def __init__(
        self, observations: Observations, prediction: Prediction, more_costs: Floats | None = None
    ) -> None:
        """Scale the objectives.

        Args:
            observations: (n) runs.
            prediction: (n) results of the observations.
            more_costs: (m, costs) of candidates, included in the scale.
        """
        known = prediction.mean[np.isfinite(prediction.sd)]
        self.low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        self.span = max(high - self.low, 1e-9)
        costs = observations.costs if more_costs is None else np.concatenate([observations.costs, more_costs])
        self.costs = scaled(costs)  # (n + m, costs)
        finished = np.flatnonzero(observations.finished & observations.feasible)
        points = np.column_stack([self._scale(prediction.mean[finished]), self.costs[finished]])
        self.front = points[undominated(points)]

    def assume(self, means: Floats, costs: Floats) -> None:
        """Count architectures as finished, with expected losses `means` (m,) and scaled `costs`."""
        points = np.concatenate([self.front, np.column_stack([self._scale(means), costs])])
        self.front = points[undominated(points)]

    def expected_improvement(self, mean: float, sd: float, costs: Floats) -> float:
        """Return the EHVI of an architecture with these scaled costs; infinite without a prediction."""
        if not np.isfinite(sd):
            return np.inf
        losses = self._scale(mean + sd * NODES)
        if (self.front <= np.array([losses.min(), *costs])).all(axis=1).any():
            return 0.0
        if len(costs) == 2:
            volumes = _exclusive_at(losses, costs, self.front)
        else:
            volumes = np.array([_exclusive(np.array([loss, *costs]), self.front) for loss in losses])
        return float(np.dot(WEIGHTS, volumes) / WEIGHTS.sum())

    def best(self, prediction: Prediction, costs: Floats) -> tuple[int, float]:
        """Return the index of the architecture with the largest EHVI, the first of equal ones, and that EHVI.

        EHVI is slow to compute: architectures are tried from the largest upper bound down, until no bound
        exceeds the best value, and at most MAX_EXACT of them.

        Args:
            prediction: (m) losses of the architectures.
            costs: (m, costs) their scaled costs.
        """
        bounds = self._upper_bounds(prediction, costs)
        improvements = np.full(len(bounds), -np.inf)
        for row in np.argsort(-bounds, kind="stable")[:MAX_EXACT]:
            if bounds[row] < improvements.max():
                break
            improvements[row] = self.expected_improvement(
                prediction.mean[row], prediction.sd[row], costs[row]
            )
        best = int(np.argmax(improvements))
        return best, float(improvements[best])

    def _upper_bounds(self, prediction: Prediction, costs: Floats) -> Floats:
        """Return (m,) upper bounds of the EHVI: of the front, only the one most dominating point counts."""
        losses = self._scale(prediction.mean[:, None] + prediction.sd[:, None] * NODES)  # (m, nodes)
        points = np.concatenate(
            [losses[..., None], np.repeat(costs[:, None], len(NODES), axis=1)], axis=2
        )  # (m, nodes, objectives)
        whole = np.maximum(REFERENCE - points, 0).prod(axis=2)
        shared = np.maximum(REFERENCE - np.maximum(points[:, :, None], self.front), 0).prod(axis=3)
        remaining = whole - shared.max(axis=2, initial=0.0)
        bounds = np.where(np.isfinite(prediction.sd), remaining @ WEIGHTS / WEIGHTS.sum() + ROUNDING, np.inf)
        return np.asarray(bounds)

    def _scale(self, losses: Floats) -> Floats:
        return np.asarray((losses - self.low) / self.span)


def expected_improvements(observations: Observations, prediction: Prediction, rows: Sequence[int]) -> Floats:
    """Return the EHVI (len(rows),) of finishing the runs in these rows.

    The volume of the unit cube of the normalised objectives is 1. Infinite without a prediction.
    """
    normalised, known = _normalise(observations, prediction)
    for row in rows:
        if row not in known:
            known[row] = normalised.expected_improvement(
                prediction.mean[row], prediction.sd[row], normalised.costs[row]
            )
    return np.array([known[row] for row in rows])


@lru_cache(maxsize=1)  # when a run pauses, the same observations are used twice
def _normalise(
    observations: Observations, prediction: Prediction
) -> tuple[NormalisedObjectives, dict[int, float]]:
    """Return the normalised objectives, and a cache for the EHVI of their rows."""
    return NormalisedObjectives(observations, prediction), {}


def free_of_noise(
    observations: Observations, prediction: Prediction, costs: Floats, features: Floats
) -> tuple[NormalisedObjectives, Prediction, Prediction]:
    """Return the objectives over the expected front, and the expected losses of candidates and observations.

    Args:
        observations: (n) runs.
        prediction: (n) their results, measured or extrapolated.
        costs: (m, costs) of the candidates.
        features: (m, f) their descriptors.
    """
    expected = predict_expected(
        observations,
        prediction,
        np.concatenate([costs, observations.costs]),
        np.concatenate([features, observations.features]),
    )
    candidates = Prediction(expected.mean[: len(costs)], expected.sd[: len(costs)])
    known = Prediction(
        expected.mean[len(costs) :], np.where(np.isfinite(prediction.sd), expected.sd[len(costs) :], np.inf)
    )
    return NormalisedObjectives(observations, known, costs), candidates, known


def scaled(costs: Floats) -> Floats:
    """Return the columns scaled to [0, 1], by their logarithm where they span orders."""
    columns = []
    for column in costs.T:
        if 0 < ORDERS * column.min() < column.max():
            column = np.log(column)
        columns.append((column - column.min()) / max(np.ptp(column), 1e-12))
    return np.stack(columns, axis=1) if columns else costs


def _exclusive_at(losses: Floats, costs: Floats, front: Floats) -> Floats:
    """Return `_exclusive` of points that share two costs, all at once: (losses,).

    Between the front's costs, the best loss that the front has for no more of either cost is constant.
    """
    if (costs >= REFERENCE).any():
        return np.zeros(len(losses))
    covered = front[(front < REFERENCE).all(axis=1)]
    there = np.maximum(covered[:, 1:], costs)
    one, two = (np.sort(np.append(there[:, column], costs[column])) for column in (0, 1))
    best = np.full((len(one), len(two)), REFERENCE)
    cells = np.searchsorted(one, there[:, 0]), np.searchsorted(two, there[:, 1])
    np.minimum.at(best, cells, covered[:, 0])
    best = np.minimum.accumulate(np.minimum.accumulate(best, axis=0), axis=1)
    wide, deep = (np.diff(side, append=REFERENCE) for side in (one, two))
    return np.array([wide @ np.maximum(best - loss, 0) @ deep for loss in losses])


def _exclusive(point: Floats, front: Floats) -> float:
    """Return the volume that the point dominates and the front does not."""
    sides = REFERENCE - point
    if (sides <= 0).any():
        return 0.0
    covered = np.maximum(front, point)  # the part of the point's own box that the front dominates
    covered = covered[(covered < REFERENCE).all(axis=1)]
    whole = float(np.prod(sides))
    if not len(covered):
        return whole
    if covered.shape[1] == 1:
        return whole - float(REFERENCE - covered.min())
    return max(0.0, whole - hypervolume(covered, np.full(covered.shape[1], REFERENCE)))
