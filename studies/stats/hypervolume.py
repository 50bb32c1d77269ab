"""Hypervolumes of sets of points, all objectives minimised, by Optuna's (private) exact algorithm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume

Array = NDArray[np.float64]

REFERENCE = 1.1  # of objectives scaled to [0, 1]: a little beyond the worst, so that extreme points count


def hypervolume(points: Array, reference: Array) -> float:
    """Return the volume between a reference point (k,) and the points (n, k) that dominate it."""
    return float(compute_hypervolume(points, reference))


def volume(points: Sequence[Array | None]) -> float:
    """Return the share of the box up to the reference point that points (k,) scaled to [0, 1] dominate."""
    there = [point for point in points if point is not None]
    if not there:
        return 0.0
    table = np.stack(there)
    reference = np.full(table.shape[1], REFERENCE)
    return hypervolume(table, reference) / float(REFERENCE ** table.shape[1])
