"""The permutation test of one factor among others against all permutations, and its error rates."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from studies.stats.partial_effect import partial_effect_p


def test_alone_it_is_kruskal_wallis_over_all_permutations() -> None:
    values = np.array([1.0, 2.0, 2.0, 5.0, 7.0, 9.0])
    groups = np.array([0, 0, 0, 1, 1, 2])

    def statistic(order: tuple[float, ...]) -> float:
        """H in the textbook's words: spread of the groups' mean ranks, by size."""
        ranks = {1.0: 1, 2.0: 2.5, 5.0: 4, 7.0: 5, 9.0: 6}
        rows = [
            [ranks[value] for value, at in zip(order, groups, strict=True) if at == group]
            for group in range(3)
        ]
        return sum(len(row) * (np.mean(row) - 3.5) ** 2 for row in rows)

    seen = statistic(tuple(values))
    drawn = [statistic(order) for order in permutations(values)]
    exact = np.mean([item >= seen - 1e-9 for item in drawn])
    assert partial_effect_p(groups, [], values, seed=0, draws=4000) == pytest.approx(exact, abs=0.03)


def test_given_another_factor_the_statistic_is_that_of_least_squares() -> None:
    """F of nested regressions, by a general solver, over the same permutations."""
    rng = np.random.default_rng(5)
    factor, other = rng.integers(0, 3, 24), rng.integers(0, 2, 24)
    values = rng.permutation(24).astype(float) + 1  # ranks already
    small = np.column_stack([np.ones(24), other])
    whole = np.column_stack([small, factor == 1, factor == 2])

    def left_over(design: np.ndarray, result: np.ndarray) -> np.ndarray:
        return result - design @ np.linalg.lstsq(design, result, rcond=None)[0]

    def f(result: np.ndarray) -> float:
        errors = [float((left_over(design, result) ** 2).sum()) for design in (small, whole)]
        return errors[0] / errors[1]

    residuals = left_over(small, values)
    fitted = values - residuals
    drawn = [f(fitted + rng.permutation(residuals)) for _ in range(3000)]
    wanted = np.mean([item >= f(values) for item in drawn])
    assert partial_effect_p(factor, [other], values, seed=0, draws=4000) == pytest.approx(wanted, abs=0.03)


def test_what_goes_with_another_factor_is_not_tested() -> None:
    groups = np.array([0, 0, 1, 1, 2, 2] * 3)
    assert partial_effect_p(groups, [groups], np.arange(18.0), seed=0) is None
    assert partial_effect_p(np.zeros(18, dtype=int), [], np.arange(18.0), seed=0) is None
    assert partial_effect_p(np.array([0, 1, 2]), [], np.arange(3.0), seed=0) is None


def test_equal_values_show_no_effect() -> None:
    assert partial_effect_p(np.array([0, 0, 1, 1]), [], np.ones(4), seed=0) == 1


@pytest.mark.parametrize("factors", [1, 12])
def test_noise_is_seldom_an_effect(factors: int) -> None:
    """Also where there are more columns than a third of the observations."""
    rng = np.random.default_rng(0)
    result = []
    for seed in range(300):
        table = rng.integers(0, 4, size=(factors, 30))
        result.append(partial_effect_p(table[0], list(table[1:]), rng.normal(size=30), seed, draws=99))
    assert np.mean(np.array(result) <= 0.05) <= 0.08
    assert np.mean(np.array(result) <= 0.5) == pytest.approx(0.5, abs=0.12)


def test_an_effect_is_seen_and_its_companion_is_not() -> None:
    rng = np.random.default_rng(1)
    live = rng.integers(0, 2, 80)
    idle = np.where(rng.random(80) < 0.85, live, 1 - live)
    values = live + 0.5 * rng.normal(size=80)
    p_idle = partial_effect_p(idle, [live], values, seed=0)
    p_live = partial_effect_p(live, [idle], values, seed=0)
    alone = partial_effect_p(idle, [], values, seed=0)
    assert p_idle is not None
    assert p_live is not None
    assert alone is not None
    assert alone <= 0.05 < p_idle
    assert p_live <= 0.05
