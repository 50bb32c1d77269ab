"""Pareto fronts against brute force; the knee."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.objectives import Objective
from studies.stats.pareto import front_indices, ideal_distances
from surgery.architecture.metrics import METRICS

LOSS = METRICS["val_loss"]


def objectives(*directions: str) -> list[Objective]:
    return [Objective(LOSS, None, direction) for direction in directions]


def beats(one: tuple[float, ...], other: tuple[float, ...], directions: list[str]) -> bool:
    pairs = [
        (a, b) if direction == "min" else (b, a)
        for a, b, direction in zip(one, other, directions, strict=True)
    ]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[float, ...]], list[str]]:
    width = draw(st.integers(1, 4))
    value = st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6)  # few values: many ties
    rows = draw(st.lists(st.tuples(*[value] * width), max_size=40))
    return rows, draw(st.lists(st.sampled_from(["min", "max"]), min_size=width, max_size=width))


@given(tables())
def test_front_is_what_nothing_beats(table: tuple[list[tuple[float, ...]], list[str]]) -> None:
    rows, directions = table
    expected = [
        index
        for index, row in enumerate(rows)
        if not any(beats(other, row, directions) for other in rows) and row not in rows[:index]
    ]
    assert front_indices(rows, objectives(*directions)) == expected


def test_of_equal_points_the_first_stands() -> None:
    points = [(2.0, 1.0), (1.0, 2.0), (1.0, 2.0), (2.0, 1.0), (2.0, 2.0)]
    assert front_indices(points, objectives("min", "min")) == [0, 1]


def knee(points: Sequence[Sequence[float]], goals: Sequence[Objective]) -> int:
    """The point nearest to the best of every objective."""
    return int(np.argmin(ideal_distances(points, goals)))


def test_knee_is_nearest_the_ideal_corner() -> None:
    points = [(0.0, 10.0), (2.0, 2.0), (10.0, 0.0)]
    assert knee(points, objectives("min", "min")) == 1


def test_knee_of_a_maximised_objective() -> None:
    points = [(4.0, 10.0), (1.0, 9.0), (0.5, 1.0)]
    assert knee(points, objectives("min", "max")) == 1


def test_knee_weighs_wide_costs_by_ratio() -> None:
    # an eighth of the largest cost is little saved when the smallest is a thousandth
    points = [(3.0, 1024.0), (3.8, 128.0), (4.0, 1.0)]
    assert knee(points, objectives("min", "min")) == 0
    narrow = [(loss, 1024 + size) for loss, size in points]
    assert knee(narrow, objectives("min", "min")) == 1


@pytest.mark.parametrize("points", [[(1.0, 1.0)], [(1.0, 2.0), (1.0, 2.0)]])
def test_knee_of_a_single_point(points: list[tuple[float, float]]) -> None:
    assert knee(points, objectives("min", "min")) == 0


@given(tables())
def test_knee_is_always_one_of_the_points(table: tuple[list[tuple[float, ...]], list[str]]) -> None:
    rows, directions = table
    if rows:
        assert 0 <= knee(rows, objectives(*directions)) < len(rows)
