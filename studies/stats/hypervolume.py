"""Hypervolumes of sets of points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume

Array = NDArray[np.float64]


def volume(points: Sequence[Array | None]) -> float:
    """The share of the box up to the reference point that these points dominate."""
    there = [point for point in points if point is not None]
    if not there:
        return 0.0
    table = np.stack(there)
    reference = np.full(table.shape[1], REFERENCE)
    return float(compute_hypervolume(table, reference) / REFERENCE ** table.shape[1])


REFERENCE = 1.1  # of objectives scaled to [0, 1]: a little beyond the worst, so that extreme points count
