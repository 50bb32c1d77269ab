"""Places for the labels of points where they overlap neither each other nor points, by local search."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import cos, pi, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_DISTANCES = (4.0, 9.0, 15.0, 23.0, 34.0, 48.0)  # points (1/72 inch) between a point and its label
_ANGLES = [pi * turn / 8 for turn in (2, 14, 6, 10, 0, 8, 4, 12, 1, 3, 5, 7, 9, 11, 13, 15)]  # best first
_SWEEPS = 4
_GAP = 1.5  # between two labels
_OVER_LABEL, _OVER_POINT, _OVER_CURVE, _OUTSIDE = 40.0, 30.0, 4.0, 400.0  # costs, of one point of distance: 1
_MOST_OVER = 3  # points of curves, from which on it is no worse: else labels leave crowds for far away
_AMBIGUOUS = 8.0  # cost of a label that is nearer to another point than to its own
LEADER_FROM = 8.0  # distance from which a line connects a label with its point


def place_labels(
    anchors: Array, sizes: Array, points: Array, radii: Array, curves: Array, room: tuple[float, float]
) -> list[tuple[float, float] | None]:
    """Return the centre of each label, relative to its anchor; None for labels that there is no room for.

    All lengths are in points (1/72 inch), from the lower left corner of the axes.

    Args:
        anchors: (n, 2) the labelled points; where room is short, the first ones are served first.
        sizes: (n, 2) widths and heights of the labels.
        points: (m, 2) the points that must be seen, the labelled ones among them.
        radii: (m,) of their markers.
        curves: (k, 2) other points, such as those along curves, which labels avoid less strictly.
        room: width and height of the axes.
    """
    count = len(anchors)
    if not count:
        return []
    offsets = np.stack([_candidates(size) for size in sizes])  # (n, candidates, 2)
    centres = anchors[:, None] + offsets
    low, high = centres - sizes[:, None] / 2, centres + sizes[:, None] / 2
    own = np.stack([
        _costs(low[index], high[index], anchors[index], points, radii, curves, room) for index in range(count)
    ])  # fmt: skip
    chosen = np.full(count, -1)

    def overlaps(index: int) -> Array:
        """(candidates,) labels that each candidate would overlap."""
        others = [other for other in range(count) if other != index and chosen[other] >= 0]
        if not others:
            return np.zeros(offsets.shape[1])
        left = np.array([low[other, chosen[other]] for other in others]) - _GAP
        right = np.array([high[other, chosen[other]] for other in others]) + _GAP
        hit = (low[index][:, None] < right) & (high[index][:, None] > left)
        return np.asarray(hit.all(axis=2).sum(axis=1), dtype=np.float64)

    for _ in range(_SWEEPS):
        before = chosen.copy()
        for index in range(count):
            chosen[index] = int(np.argmin(own[index] + _OVER_LABEL * overlaps(index)))
        if (before == chosen).all():
            break
    for index in reversed(range(count)):  # the last ones make room
        if overlaps(index)[chosen[index]] or own[index, chosen[index]] >= _OUTSIDE:
            chosen[index] = -1
    return [
        None if best < 0 else (float(offsets[index, best, 0]), float(offsets[index, best, 1]))
        for index, best in enumerate(chosen)
    ]


def along(x: Sequence[float] | Array, y: Sequence[float] | Array, step: float = 4.0) -> Array:
    """Return (k, 2) points along a line through (x, y), no more than `step` apart; NaN interrupts it."""
    corners = np.column_stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    parts: list[Any] = [np.empty((0, 2))]
    for start, end in pairwise(corners):
        length = float(np.hypot(*(end - start)))
        if np.isfinite(length):
            parts.append(start + np.linspace(0, 1, max(2, int(length / step) + 1))[:, None] * (end - start))
    return np.concatenate(parts)


def _candidates(size: Array) -> Array:
    """(candidates, 2) centres of the label relative to its point: its edge is at one of the distances."""
    return np.array(
        [
            [(size[0] / 2 + gap) * _edge(cos(angle)), (size[1] / 2 + gap) * _edge(sin(angle))]
            for gap in _DISTANCES
            for angle in _ANGLES
        ]
    )


def _edge(part: float) -> float:
    """Take a coordinate of the unit circle to the square around it, whose corners are at the diagonals."""
    return max(-1.0, min(1.0, part * 2**0.5))


def _costs(
    low: Array, high: Array, anchor: Array, points: Array, radii: Array, curves: Array,
    room: tuple[float, float],
) -> Array:  # fmt: skip
    """(candidates,) costs of the boxes of one label, without those of other labels."""
    distance = _distances(low, high, anchor[None])[:, 0]
    others = points[np.hypot(*(points - anchor).T) >= 1]
    nearest = _distances(low, high, others).min(axis=1, initial=np.inf)
    outside = ((low < 0) | (high > np.array(room))).any(axis=1)
    return np.asarray(
        distance
        + 0.1 * (np.arange(len(low)) % len(_ANGLES))
        + _AMBIGUOUS * (nearest <= distance)
        + _OUTSIDE * outside
        + _OVER_POINT * (_distances(low, high, points) < radii + 0.5).sum(axis=1)
        + _OVER_CURVE * np.minimum((_distances(low, high, curves) < 0.5).sum(axis=1), _MOST_OVER),
        dtype=np.float64,
    )


def _distances(low: Array, high: Array, points: Array) -> Array:
    """(candidates, m) distances from boxes to points (m, 2); 0 inside."""
    away = np.maximum(low[:, None] - points, points - high[:, None])
    return np.asarray(np.hypot(*np.moveaxis(np.maximum(away, 0), 2, 0)), dtype=np.float64)
