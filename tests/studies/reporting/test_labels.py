"""Labels of points overlap neither each other nor points, and stay inside; what has no room is left out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from studies.reporting.labels import Array, along, place_labels

ROOM = (300.0, 200.0)
NOTHING = np.empty((0, 2))


def boxes(
    anchors: Array, sizes: Array, chosen: list[tuple[float, float] | None]
) -> list[tuple[Array, Array]]:
    placed = [(anchors[i] + np.array(at), sizes[i]) for i, at in enumerate(chosen) if at is not None]
    return [(centre - size / 2, centre + size / 2) for centre, size in placed]


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_a_crowd_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = rng.uniform(20, 180, (25, 2)) * (1, 0.6)
    sizes = np.column_stack([rng.uniform(12, 50, 25), np.full(25, 8.0)])
    radii = np.full(25, 3.0)
    chosen = place_labels(anchors, sizes, anchors, radii, NOTHING, ROOM)
    placed = boxes(anchors, sizes, chosen)
    assert len(placed) >= 20
    for (low, high), (other_low, other_high) in combinations(placed, 2):
        assert not ((low < other_high) & (high > other_low)).all()
    for low, high in placed:
        assert (low >= 0).all()
        assert (high <= ROOM).all()


def test_a_label_avoids_points_and_curves() -> None:
    anchor, size = np.array([[100.0, 100.0]]), np.array([[30.0, 8.0]])
    others = np.array([[100.0, 100.0], [100.0, 112.0], [100.0, 88.0]])
    curve = along([100, 300], [100, 100])
    ((at,),) = (place_labels(anchor, size, others, np.full(3, 3.0), curve, ROOM),)
    assert at is not None
    assert at[0] < -15  # to the left of the point


def test_the_first_labels_are_served_first() -> None:
    anchors = np.full((8, 2), 20.0)
    sizes = np.full((8, 2), 25.0)
    chosen = place_labels(anchors, sizes, anchors, np.full(8, 3.0), NOTHING, (60.0, 60.0))
    assert chosen[0] is not None
    assert chosen[-1] is None


def test_points_along_a_line_skip_gaps() -> None:
    points = along([0, 10, np.nan, 20, 30], [0, 0, 0, 0, 0], step=5)
    assert sorted(set(points[:, 0])) == [0, 5, 10, 20, 25, 30]
