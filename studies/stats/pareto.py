"""Pareto fronts: which architectures no other beats in every objective, and how to choose among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.objectives import Objective


def front_indices(points: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> list[int]:
    """Indices of the non-dominated points, in order; of equal points the first stands for all.

    A point dominates another when it is nowhere worse and somewhere better.
    """
    if not points:
        return []
    return sorted(undominated(_losses(points, objectives)).tolist())


def undominated(losses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Places of the rows that no other beats or equals everywhere, in lexicographic order of the rows; of
    equal ones the first stands for all."""
    # whatever dominates a row, or equals it and came first, comes before it in this order
    places = np.lexsort(losses.T[::-1])
    left, front = losses[places], []
    while len(places):
        front.append(places[0])
        beside = (left < left[0]).any(axis=1)
        places, left = places[beside], left[beside]
    return np.array(front, dtype=np.intp)


def ideal_distances(
    points: Sequence[Sequence[float]], objectives: Sequence[Objective]
) -> NDArray[np.float64]:
    """(points,) distance to the best of every objective, after each is scaled to [0, 1] over `points`."""
    return np.asarray(np.sqrt((scaled(points, objectives) ** 2).sum(axis=1)), dtype=np.float64)


def scaled(points: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """(points, objectives) from 0, the best of all, to 1, the worst.

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
