"""The solver against all choices, one by one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from studies.selection.problem import Choice, Selection, distance
from studies.selection.solve import solve
from tests.studies.selection.small import every_choice, limits_of, random_selection


@pytest.mark.parametrize("seed", range(12))
def test_the_best_choice_is_that_of_brute_force(seed: int) -> None:
    selection = random_selection(seed)
    limits = limits_of(selection, seed)
    best, *_ = every_choice(selection, limits)
    (solution,) = solve(selection, limits)
    assert solution.score == pytest.approx(selection.score(best), abs=1e-9)
    assert solution.score == selection.score(solution.choice)
    assert solution.costs == selection.total(solution.choice)
    assert selection.keeps(solution.choice, limits)
    assert solution.gap == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("apart", [1, 2, 3])
def test_the_pool_is_that_of_brute_force(seed: int, apart: int) -> None:
    selection = random_selection(seed)
    limits = limits_of(selection, seed)
    expected: list[Choice] = []
    for choice in every_choice(selection, limits):
        if len(expected) < 6 and all(distance(choice, other) >= apart for other in expected):
            expected.append(choice)
    pool = solve(selection, limits, pool=6, distance=apart)
    assert [item.choice for item in pool] == expected


def test_a_pool_ends_where_no_choice_is_left() -> None:
    selection = random_selection(3, parts=2)
    every = every_choice(selection, {})
    assert [item.choice for item in solve(selection, {}, pool=100)] == every


@pytest.mark.parametrize("seed", range(4))
def test_ties_give_a_best_choice_and_no_choice_twice(seed: int) -> None:
    selection = random_selection(seed, parts=4, ties=True)
    limits = limits_of(selection, seed)
    every = every_choice(selection, limits)
    pool = solve(selection, limits, pool=1000)
    assert sorted(item.choice for item in pool) == sorted(every)
    assert [item.score for item in pool] == [selection.score(choice) for choice in every]


@pytest.mark.parametrize("seed", range(6))
def test_large_costs_are_kept_to_the_unit(seed: int) -> None:
    random = np.random.default_rng(seed)
    selection = random_selection(seed, unit=10**9)
    jitter = {
        metric: [np.where(part == 0, 0, part + random.integers(-3, 4, len(part))) for part in parts]
        for metric, parts in selection.costs.items()
    }
    selection = dataclasses.replace(selection, costs=jitter)
    every = every_choice(selection, {})
    tight = selection.total(every[len(every) // 2])["params"]
    for limit in (tight, tight - 1):
        (solution,) = solve(selection, {"params": (None, limit)})
        assert solution.costs["params"] <= limit
        assert solution.score == pytest.approx(
            selection.score(every_choice(selection, {"params": (None, limit)})[0])
        )


def test_limits_that_no_choice_keeps_give_nothing() -> None:
    selection = random_selection(0)
    cheapest = selection.cheapest("params")
    assert solve(selection, {"params": (None, cheapest - 1)}) == []
    assert solve(selection, {"params": (5000, None)}) == []
    assert solve(selection, {"params": (10, 5)}) == []
    assert (
        solve(selection, {"params": (selection.base["params"] - 0.75, selection.base["params"] - 0.25)}) == []
    )
    (only,) = solve(selection, {"params": (None, cheapest)})
    assert only.costs["params"] == cheapest


def test_costs_with_a_common_divisor_skip_what_lies_between() -> None:
    selection = Selection([np.array([0.0, 0.5])] * 2, {"a": [np.array([0, -6])] * 2}, {"a": 20})
    assert solve(selection, {"a": (9, 13)}) == []
    assert [item.costs["a"] for item in solve(selection, {"a": (None, 13.9)})] == [8]


def test_without_limits_everything_is_kept() -> None:
    selection = random_selection(1)
    (solution,) = solve(selection, {})
    assert solution.choice == (0,) * 5
    assert solution.score == 0


def test_what_has_an_infinite_score_is_never_chosen() -> None:
    scores = [np.array([0.0, np.inf, 0.2]), np.array([0.0, 0.3])]
    selection = Selection(scores, {"a": [np.array([0, -9, -4]), np.array([0, -5])]}, {"a": 10})
    assert [item.choice for item in solve(selection, {"a": (None, 6)}, pool=9)] == [(2, 0), (0, 1), (2, 1)]
    assert solve(selection, {"a": (None, 0)}) == []


def best_by_capacity(scores: np.ndarray, savings: np.ndarray, least: int) -> float:
    """Return the lowest sum of scores with at least this much saved, by dynamic programming.

    Args:
        scores: (parts, options).
        savings: (parts, options) small integers.
    """
    best = np.full(least + 1, np.inf)  # by what is saved, everything beyond `least` counting as `least`
    best[0] = 0
    for score, saving in zip(scores, savings, strict=True):
        after = np.full_like(best, np.inf)
        for value, saved in zip(score, saving, strict=True):
            np.minimum.at(after, np.minimum(np.arange(least + 1) + saved, least), best + value)
        best = after
    return float(best[least])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_many_parts_under_one_limit_are_solved_as_by_dynamic_programming(share: float) -> None:
    random = np.random.default_rng(int(10 * share))
    savings = random.integers(0, 60, size=(40, 8))
    savings[:, 0] = 0
    scores = savings / 60 * random.exponential(0.1, size=(40, 1)) * np.exp(random.normal(0, 0.3, (40, 8)))
    selection = Selection(list(scores), {"a": list(-savings * 7919)}, {"a": 10**8})
    least = int(share * savings.max(axis=1).sum())
    (solution,) = solve(selection, {"a": (None, 10**8 - 7919 * least)})
    assert solution.score == pytest.approx(best_by_capacity(scores, savings, least), abs=1e-9)


def test_many_parts_under_two_limits_keep_them_and_the_lagrangian_bound() -> None:
    random = np.random.default_rng(11)
    sizes = random.integers(3, 9, size=30)
    scores = [np.r_[0.0, random.exponential(0.1, size - 1)] for size in sizes]
    costs = {name: [-np.r_[0, random.integers(0, 10**7, size - 1)] for size in sizes] for name in "ab"}
    selection = Selection(scores, costs, {"a": 10**9, "b": 10**9})
    limits = {name: (None, (10**9 + selection.cheapest(name)) // 2) for name in "ab"}
    solutions = solve(selection, limits, pool=3, distance=4)
    # whatever the prices per unit, no choice within the limits scores lower than the best price-adjusted one
    bound = max(
        sum(
            float((score + x * a + y * b).min())
            for score, a, b in zip(scores, costs["a"], costs["b"], strict=True)
        )
        - sum(price * (limits[name][1] - 10**9) for name, price in (("a", x), ("b", y)))
        for x in np.linspace(0, 2e-8, 41)
        for y in np.linspace(0, 2e-8, 41)
    )
    assert 0 < bound <= solutions[0].score <= 1.05 * bound
    assert [item.score for item in solutions] == sorted(item.score for item in solutions)
    for number, solution in enumerate(solutions):
        assert all(selection.total(solution.choice)[name] <= limits[name][1] for name in "ab")
        assert solution.gap < 1e-8
        assert all(distance(solution.choice, other.choice) >= 4 for other in solutions[:number])


def test_a_solution_with_a_gap_says_how_far_it_may_be_from_the_best() -> None:
    selection = random_selection(5, parts=7)
    limits = limits_of(selection, 1)
    best = selection.score(every_choice(selection, limits)[0])
    (solution,) = solve(selection, limits, gap=0.5)
    assert solution.score - solution.gap <= best + 1e-9
