"""Budgets of one cost and of several."""

from __future__ import annotations

import numpy as np

from studies.selection.grid import budgets
from studies.selection.problem import Selection

SELECTION = Selection(
    scores=[np.array([0.0, 0.1]), np.array([0.0, 0.2])],
    costs={"a": [np.array([0, -40]), np.array([0, -60])], "b": [np.array([0, -5]), np.array([0, 2])]},
    base={"a": 200, "b": 10},
)


def test_budgets_of_one_metric_are_evenly_spaced() -> None:
    grid = budgets(SELECTION, ["a"], 4)
    assert grid == [{"a": (None, high)} for high in (120, 140, 160, 180)]


def test_budgets_lie_within_the_limits_that_hold_everywhere() -> None:
    grid = budgets(SELECTION, ["a"], 1, {"a": (150, 170), "b": (None, 11)})
    assert grid == [{"a": (150, 160), "b": (None, 11)}]


def test_budgets_of_two_metrics_are_half_alone_and_half_joint() -> None:
    grid = budgets(SELECTION, ["a", "b"], 16)
    assert [sorted(limits) for limits in grid] == [["a"]] * 4 + [["b"]] * 4 + [["a", "b"]] * 8
    assert len({tuple(sorted(limits.items())) for limits in grid}) == 16
    shares = np.array([[(limits["a"][1] - 100) / 100, (limits["b"][1] - 5) / 5] for limits in grid[8:]])
    quarters = {(int(a > 0.5), int(b > 0.5)) for a, b in shares}
    assert len(quarters) == 4
    assert ((shares >= -0.2) & (shares < 1)).all()  # b's are rounded down to whole units


def test_three_metrics_share_the_budgets() -> None:
    selection = Selection(
        SELECTION.scores, {**SELECTION.costs, "c": SELECTION.costs["a"]}, {**SELECTION.base, "c": 300}
    )
    grid = budgets(selection, ["a", "b", "c"], 16)
    assert [len(limits) for limits in grid] == [1] * 8 + [3] * 8
