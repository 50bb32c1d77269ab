"""Expected gains of hypervolume against grids and draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.stats.hypervolume import REFERENCE
from studies.surrogates.expected_improvement import HOPEFUL, Box, _exclusive, _exclusive_at, expected_gains
from studies.surrogates.learning_curves import Forecast
from studies.surrogates.observations import Evidence, Floats


@given(st.integers(1, 3), st.integers(0, 6), st.integers(0, 2**31))
def test_the_exclusive_volume_by_counting_cells(objectives: int, size: int, seed: int) -> None:
    """Points on a grid of tenths: the volume is a count of cells."""
    rng = np.random.default_rng(seed)
    point = rng.integers(0, 12, objectives) / 10
    front = rng.integers(0, 11, (size, objectives)) / 10
    cells = np.stack(np.meshgrid(*[np.arange(11) / 10 + 0.05] * objectives), axis=-1).reshape(-1, objectives)
    inside = (cells > point).all(axis=1)
    for other in front:
        inside &= ~(cells > other).all(axis=1)
    assert _exclusive(point, front) == pytest.approx(inside.sum() / 10**objectives, abs=1e-9)
    assert REFERENCE == 1.1


def evidence_of(costs: Floats, finished: Floats) -> Evidence:
    """Finished runs first; the others are at their first rung."""
    curves = [[value + 1, value] for value in finished] + [[5.0]] * (len(costs) - len(finished))
    return Evidence.of(range(len(costs)), costs.tolist(), curves, [[0.0]] * len(costs), 2)


@given(st.integers(0, 2**31))
def test_expected_gains_by_many_draws(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.uniform(1, 3, (9, 2))
    finished = rng.uniform(4, 5, 6)
    evidence = evidence_of(costs, finished)
    mean = np.array([*finished, *rng.uniform(4, 5, 3)])
    sd = np.array([0.0] * 6 + [0.05] * 3)
    found = expected_gains(evidence, Forecast(mean, sd), [6, 7, 8])
    scaled = (costs - costs.min(axis=0)) / np.ptp(costs, axis=0)
    low, span = mean.min(), np.ptp(mean)
    front = np.column_stack([(finished - low) / span, scaled[:6]])
    for place, row in enumerate((6, 7, 8)):
        draws = (rng.normal(mean[row], 0.05, 4000) - low) / span
        gains = _exclusive_at(draws, scaled[row], front)
        error = np.std(gains) / np.sqrt(len(gains))
        assert found[place] == pytest.approx(np.mean(gains), abs=5 * error + 2e-3)


def test_what_can_not_stand_on_the_front_covers_nothing_of_it() -> None:
    costs = np.array([[1.0], [2.0], [2.0]])
    told = Forecast(np.array([4.0, 5.0, 4.5]), np.array([0.0, 0.0, 0.01]))
    evidence = evidence_of(costs, np.array([4.0, 5.0]))
    assert expected_gains(evidence, told, [2])[0] == pytest.approx(0, abs=1e-6)
    alone = Evidence.of(
        range(3), costs.tolist(), [[5.0, 4.0], [6.0, 5.0], [5.0]], [[0.0]] * 3, 2, (), [False, True, True]
    )
    assert expected_gains(alone, told, [2])[0] > 0.01


def test_no_forecast_is_worth_a_try() -> None:
    told = Forecast(np.array([4.0, np.nan]), np.array([0.0, np.inf]))
    assert expected_gains(evidence_of(np.array([[1.0], [2.0]]), np.array([4.0])), told, [1])[0] == np.inf


@given(st.integers(0, 2**31))
def test_points_of_two_costs_are_measured_at_once_as_each_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    front, costs = rng.uniform(0, 1.2, (rng.integers(0, 12), 3)), rng.uniform(0, 1.15, 2)
    front[1:2, 1:] = costs  # equal costs too
    losses = rng.uniform(0, 1.2, 3)
    alone = [_exclusive(np.array([loss, *costs]), front) for loss in losses]
    np.testing.assert_allclose(_exclusive_at(losses, costs, front), alone, atol=1e-12)


def test_what_is_assumed_is_not_gained_twice() -> None:
    evidence = evidence_of(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([4.0, 5.0]))
    told = Forecast(np.array([4.0, 5.0]), np.zeros(2))
    box = Box(evidence, told)
    costs = np.array([0.5, 0.5])
    before = box.gain(4.2, 0.0, costs)
    box.assume(np.array([4.2]), costs[None])
    assert before > 0
    assert box.gain(4.2, 0.0, costs) == 0
    box.assume(np.zeros(0), np.zeros((0, 2)))  # nobody else is at work
    assert box.gain(4.2, 0.0, costs) == 0


@given(st.integers(0, 2**31), st.integers(1, 3))
def test_the_best_is_the_best_of_all(seed: int, objectives: int) -> None:
    """However few gains are worked out to find it."""
    rng = np.random.default_rng(seed)
    costs, finished = rng.uniform(1, 3, (8 + HOPEFUL, objectives)), rng.uniform(4, 5, 8)
    box = Box(evidence_of(costs[:8], finished), Forecast(finished, np.zeros(8)), costs[8:])
    told = Forecast(rng.uniform(3.5, 5.5, HOPEFUL), rng.uniform(0.001, 0.4, HOPEFUL))
    every = [box.gain(told.mean[row], told.sd[row], box.costs[8 + row]) for row in range(HOPEFUL)]
    assert every[box.best(told, box.costs[8:])] == max(every)
