"""The local search against all choices, and against every change of one or two parts."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from studies.selection.interactions import SecondOrder, pair_terms
from studies.selection.local_search import local_search
from studies.selection.problem import Selection, distance
from studies.selection.solve import solve
from tests.studies.selection.small import every_choice, limits_of, random_selection


def model_of(seed: int, parts: int = 6) -> SecondOrder:
    """Return a model whose features err in part the same way."""
    random = np.random.default_rng(seed)
    selection = random_selection(seed, parts=parts)
    shared = random.normal(size=8)
    features = []
    for scores in selection.scores:
        rows = random.normal(size=(len(scores), 8)) + 0.5 * shared
        features.append(rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.sqrt(scores)[:, None])
    return SecondOrder(selection, pair_terms(features))


@pytest.mark.parametrize("seed", range(8))
def test_no_change_of_two_parts_improves_the_result(seed: int) -> None:
    model = model_of(seed)
    limits = limits_of(model.selection, seed)
    (start,) = solve(model.selection, limits)
    result = local_search(model, start.choice, limits)
    every = every_choice(model.selection, limits)
    near = [choice for choice in every if distance(choice, result.choice) <= 2]
    assert min(model.predict(choice) for choice in near) >= result.score - 1e-9
    assert result.choice in near
    assert result.score == model.predict(result.choice) <= model.predict(start.choice) + 1e-12
    assert result.costs == model.selection.total(result.choice)
    assert local_search(model, start.choice, limits) == result


def test_from_a_pool_it_comes_near_the_best_of_all() -> None:
    misses = []
    for seed in range(8):
        model = model_of(seed)
        limits = limits_of(model.selection, seed)
        best = min(model.predict(choice) for choice in every_choice(model.selection, limits))
        pool = solve(model.selection, limits, pool=3, distance=2)
        result = min(local_search(model, item.choice, limits).score for item in pool)
        misses.append(result - best)
    assert min(misses) > -1e-9
    assert sum(miss < 1e-9 for miss in misses) >= 7


def test_what_has_an_infinite_score_is_not_moved_to() -> None:
    selection = Selection(
        [np.array([0.0, 0.5, np.inf]), np.array([0.0, 0.1])],
        {"a": [np.array([0, -1, -1]), np.array([0, -1])]},
        {"a": 2},
    )
    model = SecondOrder(selection, np.zeros((5, 5)))
    assert local_search(model, (1, 0), {"a": (None, 1)}).choice == (0, 1)


def test_a_swap_between_parts_is_one_move() -> None:
    """Neither part can change alone within the limits: one has to give what the other takes."""
    scores = [np.array([0.0, 0.4]), np.array([0.0, 0.1]), np.array([0.0, 0.3])]
    costs = {"a": [np.array([0, -5])] * 3}
    model = SecondOrder(Selection(scores, costs, {"a": 20}), np.zeros((6, 6)))
    for start in itertools.product((0, 1), repeat=3):
        if sum(start) == 1:
            assert local_search(model, start, {"a": (15, 15)}).choice == (0, 1, 0)


def test_limits_in_huge_units_are_kept_to_the_unit() -> None:
    model = model_of(3)
    huge = {name: [part * 10**12 for part in parts] for name, parts in model.selection.costs.items()}
    base = {name: cost * 10**12 for name, cost in model.selection.base.items()}
    selection = dataclasses.replace(model.selection, costs=huge, base=base)
    start = every_choice(selection, {})[-1]
    limit = selection.total(start)["params"]
    result = local_search(SecondOrder(selection, model.terms), start, {"params": (None, limit)})
    assert result.costs["params"] <= limit
