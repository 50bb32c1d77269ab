"""P(front) against counting fronts draw by draw, and against probabilities known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.stats.front_probability import FrontProbability
from studies.stats.seed_noise import Noise, t_factor


def noise(*sds: float, df: int = 10**6) -> Noise:
    return Noise(np.diag(np.square(sds)), df)


def membership(costs: object, means: object, runs: object, result: Noise, seed: int = 0) -> FrontProbability:
    arrays = np.array(costs, dtype=float), np.array(means, dtype=float)
    return FrontProbability(*arrays, np.array(runs), result, seed)


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, Noise]:
    """Few levels of cost and of loss: equal architectures are common."""
    count, costs, measured = draw(st.integers(1, 7)), draw(st.integers(0, 2)), draw(st.integers(1, 2))
    level = st.integers(0, 3).map(float)
    rows = draw(st.lists(st.tuples(*[level] * (costs + measured)), min_size=count, max_size=count))
    table = np.array(rows, dtype=float)
    sds = draw(st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=measured, max_size=measured))
    runs = np.array(draw(st.lists(st.integers(1, 4), min_size=count, max_size=count)))
    return table[:, :costs], table[:, costs:], runs, noise(*sds, df=draw(st.integers(1, 9)))


@given(tables())
def test_it_counts_fronts(table: tuple[np.ndarray, np.ndarray, np.ndarray, Noise]) -> None:
    costs, means, runs, result = table
    one = FrontProbability(costs, means, runs, result, seed=1, draws=40)
    on_front = np.zeros(len(means))
    for draw in range(40):
        points = [tuple(row) for row in np.concatenate([costs, one.drawn[:, :, draw].T], axis=1)]
        for index, point in enumerate(points):
            beaten = any(
                all(a <= b for a, b in zip(other, point, strict=True)) and other != point for other in points
            )
            on_front[index] += not beaten and point not in points[:index]
    assert one.probability == pytest.approx(on_front / 40)
    first = [index for index in range(len(means)) if one._on_front[index, 0]]
    assert one.whole(first) == (one._on_front == one._on_front[:, :1]).all(axis=0).mean()


def test_two_of_a_price() -> None:
    """The dearer of two is on the front when its loss is really lower: P(t > difference)."""
    result = membership([[1.0], [2.0]], [[3.0], [3.0]], [1, 1], noise(0.1))
    assert result.probability[0] == 1
    assert result.probability[1] == pytest.approx(0.5, abs=0.03)
    # the 90 % interval of the difference ends where 5 % are left
    df = 4
    gap = t_factor(0.9, df) * 0.1 * np.sqrt(1 / 2 + 1 / 3)
    result = membership([[1.0], [2.0]], [[3.0], [3.0 - gap]], [2, 3], noise(0.1, df=df))
    assert result.probability[1] == pytest.approx(0.95, abs=0.015)


def test_twins_share_their_place() -> None:
    result = membership([[1.0]] * 4, [[3.0]] * 4, [1] * 4, noise(0.1))
    assert result.probability.sum() == pytest.approx(1)
    assert result.probability == pytest.approx([0.25] * 4, abs=0.04)


def test_more_runs_make_surer() -> None:
    few, many = (
        membership([[1.0], [2.0]], [[3.0], [2.95]], [runs, runs], noise(0.05)).probability[1]
        for runs in (1, 5)
    )
    assert few == pytest.approx(0.76, abs=0.03)
    assert many > 0.93


def test_rivals_are_those_that_cost_no_more_and_may_be_better() -> None:
    costs = [[1.0], [2.0], [2.0], [3.0]]
    result = membership(costs, [[3.01], [3.0], [9.0], [1.0]], [1] * 4, noise(0.05))
    assert list(result.rivals(1, 0.1)) == [0]
    assert list(result.rivals(0, 0.1)) == []
    assert list(result.rivals(2, 0.1)) == [0, 1]


def test_same_seed_same_probability() -> None:
    random = np.random.default_rng(0)
    costs, means = random.random((30, 2)), random.random((30, 1))
    one, other, third = (
        FrontProbability(costs, means, np.ones(30, dtype=int), noise(0.2, df=6), seed).probability
        for seed in (7, 7, 8)
    )
    assert (one == other).all()
    assert (one != third).any()
    assert one == pytest.approx(third, abs=0.06)
