"""What finishing a run is expected to add to the hypervolume of the front, its costs being exact.

Only the loss is uncertain, so that the expectation is over one normal variable: Gauss-Hermite quadrature of
the exclusive hypervolume of the point (expected hypervolume improvement, Emmerich et al. 2006, with known
costs).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna._hypervolume import compute_hypervolume

from studies.rungs.evidence import Evidence, Floats
from studies.rungs.forecast import Forecast

REFERENCE = 1.1  # of objectives scaled to [0, 1]: a little beyond the worst, so that extreme points count
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
ORDERS = 4.0  # costs whose largest is so many times the smallest are compared by their logarithm


def expected_gains(evidence: Evidence, told: Forecast, rows: Sequence[int]) -> Floats:
    """(len(rows),) in shares of the box; infinite where there is no forecast yet."""
    finished = evidence.finished & evidence.feasible
    costs = _scaled(evidence.costs)
    known = told.mean[np.isfinite(told.sd)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    span = max(high - low, 1e-9)
    front = np.column_stack([(told.mean[finished] - low) / span, costs[finished]])
    front = _undominated(front)
    found = np.full(len(rows), np.inf)
    for place, row in enumerate(rows):
        if np.isfinite(told.sd[row]):
            losses = (told.mean[row] + told.sd[row] * NODES - low) / span
            gains = [_exclusive(np.array([loss, *costs[row]]), front) for loss in losses]
            found[place] = float(np.dot(WEIGHTS, gains) / WEIGHTS.sum())
    return found


def _scaled(costs: Floats) -> Floats:
    """Columns brought to [0, 1]."""
    columns = []
    for column in costs.T:
        if 0 < ORDERS * column.min() < column.max():
            column = np.log(column)
        columns.append((column - column.min()) / max(np.ptp(column), 1e-12))
    return np.stack(columns, axis=1) if columns else costs


def _undominated(points: Floats) -> Floats:
    kept: list[Floats] = []
    for point in points[np.lexsort(points.T[::-1])]:
        if not any((other <= point).all() for other in kept):
            kept.append(point)
    return np.array(kept).reshape(len(kept), points.shape[1])


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
    return max(0.0, whole - float(compute_hypervolume(covered, np.full(covered.shape[1], REFERENCE))))
