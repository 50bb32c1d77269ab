"""Pareto fronts: the non-dominated architectures, and distances to choose among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.objectives import Objective


def front_indices(points: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> list[int]:
    """Return the indices of the non-dominated points, in order; of equal points only the first.

    A point dominates another if it is no worse in every objective and better in one.
    """
    if not points:
        return []
    return sorted(undominated(_losses(points, objectives)).tolist())


def undominated(losses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the indices of the non-dominated rows, in lexicographic order of the rows.

    Of equal rows only the first is returned.

    Args:
        losses: (n, objectives), lower is better.
    """
    # a row that dominates another, or equals it and came first, precedes it in this order
    order = np.lexsort(losses.T[::-1])
    left, front = losses[order], []
    while len(order):
        front.append(order[0])
        undecided = (left < left[0]).any(axis=1)
        order, left = order[undecided], left[undecided]
    return np.array(front, dtype=np.intp)


def ideal_distances(
    points: Sequence[Sequence[float]], objectives: Sequence[Objective]
) -> NDArray[np.float64]:
    """Return (points,) distances to the best of every objective, each scaled to [0, 1] over `points`."""
    return np.asarray(np.sqrt((scaled(points, objectives) ** 2).sum(axis=1)), dtype=np.float64)


def scaled(points: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Return (points, objectives) scaled from 0, the best of all, to 1, the worst.

    Costs that span orders of magnitude are compared by their logarithm, so that halving counts the same
    everywhere.
    """
    losses = _losses(points, objectives)
    for column, objective in enumerate(objectives):
        values = np.abs(losses[:, column])
        if 0 < 4 * values.min() < values.max():
            sign = 1 if objective.direction == "min" else -1
            losses[:, column] = sign * np.log(values)
    span = np.ptp(losses, axis=0)
    return np.asarray((losses - losses.min(axis=0)) / np.where(span > 0, span, 1))


def _losses(points: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    table = np.asarray(points, dtype=np.float64)
    signs = np.array([1.0 if objective.direction == "min" else -1.0 for objective in objectives])
    return np.asarray(table * signs, dtype=np.float64)
