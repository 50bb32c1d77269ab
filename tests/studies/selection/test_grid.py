"""Budgets and the predicted front."""

from __future__ import annotations

import numpy as np
import pytest

from studies.selection.grid import budgets, predicted_front, sweep
from studies.selection.interactions import SecondOrder, pair_terms, rescaled
from studies.selection.problem import Selection
from studies.selection.solve import solve
from tests.studies.selection.small import every_choice, random_selection

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


@pytest.mark.parametrize("seed", range(4))
def test_the_sweep_has_each_best_choice_once(seed: int) -> None:
    selection = random_selection(seed, pairs=5)
    grid = budgets(selection, ["params", "cache"], 8)
    solutions = sweep(selection, grid, pool=2)
    assert len({item.choice for item in solutions}) == len(solutions)
    assert [item.score for item in solutions] == sorted(item.score for item in solutions)
    chosen = {item.choice for item in solutions}
    for limits in grid:
        best = every_choice(selection, limits)[:2]
        assert {item.choice for item in solve(selection, limits, pool=2)} == set(best) <= chosen


def test_a_sweep_under_all_pairs_is_no_worse_than_without() -> None:
    selection = random_selection(4, parts=6)
    random = np.random.default_rng(0)
    features = [random.normal(size=(size, 3)) for size in selection.sizes]
    model = SecondOrder(selection, pair_terms(rescaled(features, selection.scores)))
    grid = budgets(selection, ["params"], 6)
    for limits in grid:
        plain = sweep(selection, [limits], pool=2)
        better = sweep(selection, [limits], pool=2, model=model)
        assert better[0].score <= min(model.predict(item.choice) for item in plain)
        assert all(selection.keeps(item.choice, limits) for item in better)
        assert all(item.score == model.predict(item.choice) for item in better)


def test_the_predicted_front_has_none_that_another_dominates() -> None:
    selection = random_selection(2)
    solutions = sweep(selection, budgets(selection, ["params", "cache"], 8), pool=4)
    front = predicted_front(solutions, ["params", "cache"])
    rows = {item.choice: (item.score, item.costs["params"], item.costs["cache"]) for item in solutions}

    def dominated(row: tuple[float, int, int]) -> bool:
        return any(
            other != row and all(x <= y for x, y in zip(other, row, strict=True)) for other in rows.values()
        )

    assert [item.choice for item in front] == [
        item.choice for item in solutions if not dominated(rows[item.choice])
    ]
    assert predicted_front([], ["params"]) == []
