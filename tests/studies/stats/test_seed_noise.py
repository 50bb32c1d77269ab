"""Pooled noise, intervals and coverage against closed forms, textbook tables and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.stats.seed_noise import coverage, pool, t_factor


@pytest.mark.parametrize(
    ("level", "df", "expected"),
    [  # the two-sided table of any statistics book, to its three decimals
        (0.9, 1, 6.314), (0.9, 2, 2.920), (0.9, 3, 2.353), (0.9, 6, 1.943), (0.9, 30, 1.697),
        (0.95, 5, 2.571), (0.95, 10, 2.228), (0.95, 120, 1.980), (0.99, 4, 4.604), (0.99, 15, 2.947),
    ],
)  # fmt: skip
def test_t_is_that_of_the_tables(level: float, df: int, expected: float) -> None:
    assert t_factor(level, df) == pytest.approx(expected, abs=5.1e-4)


@given(st.floats(0.05, 0.995), st.integers(1, 200))
def test_t_holds_its_level(level: float, df: int) -> None:
    """The density, integrated up to it, gives the level."""
    t = t_factor(level, df)
    angles = np.linspace(0, math.atan(t / math.sqrt(df)), 4001)
    # substituting T = sqrt(df) tan a turns the density into cos(a)^(df - 1), times a constant
    constant = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    inside = 2 * constant * np.trapezoid(np.cos(angles) ** (df - 1), angles)
    assert inside == pytest.approx(level, abs=1e-5)


def test_noise_is_the_within_mean_square() -> None:
    noise = pool([[[1.0], [3.0]], [[10.0], [10.0], [13.0]], [[7.0]]])
    assert noise is not None
    assert noise.df == 3
    assert noise.sd[0] ** 2 == pytest.approx((2 + 6) / 3)
    t = 2.353
    assert noise.mean(4)[0] == pytest.approx(t * noise.sd[0] / 2, rel=1e-3)
    assert noise.fresh(1)[0] == pytest.approx(t * noise.sd[0] * math.sqrt(2), rel=1e-3)
    assert noise.difference(1, 2)[0] == pytest.approx(t * noise.sd[0] * math.sqrt(1.5), rel=1e-3)


def test_several_objectives_keep_their_correlation() -> None:
    random = np.random.default_rng(0)
    truth = np.array([[0.04, 0.03], [0.03, 0.09]])
    runs = [random.normal(size=2) + random.multivariate_normal([0, 0], truth, size=4) for _ in range(3000)]
    noise = pool(runs)
    assert noise is not None
    assert noise.df == 9000
    assert noise.covariance == pytest.approx(truth, rel=0.1)


def test_one_run_each_tells_nothing() -> None:
    assert pool([[[1.0]], [[2.0]]]) is None
    assert pool([]) is None
    assert coverage([[1.0], [2.0]]).held_out == 0
    assert coverage([[1.0, 2.0]]).held_out == 0  # without one of the two there is no noise left


@given(
    st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=5), min_size=1, max_size=6), st.integers(0, 1)
)
def test_coverage_is_leaving_one_out(runs: list[list[float]], skip: int) -> None:
    """The shortcut for sums of squares against doing it run by run."""
    margins = []
    for position, own in enumerate(runs):
        for index in range(skip, len(own)):
            rest = own[:index] + own[index + 1 :]
            others = [
                np.array(row)[:, None] for row in [*runs[:position], rest, *runs[position + 1 :]] if row
            ]
            noise = pool(others)
            if rest and noise is not None:
                margins.append(noise.fresh(len(rest))[0] - abs(own[index] - np.mean(rest)))
    result = coverage(runs, skip=skip)
    assert result.held_out == len(margins)
    if all(abs(margin) > 1e-6 for margin in margins):  # on the edge rounding decides
        assert result.covered == sum(margin > 0 for margin in margins)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("counts", [[2, 2], [2] * 6 + [1] * 20, [3] * 30 + [2] * 30, [5, 1, 1, 3]])
def test_intervals_hold_their_level(counts: list[int], level: float) -> None:
    """Exact in simulation with noise of a known kind, from two pairs of runs to a table of 60."""
    random = np.random.default_rng(len(counts))
    tables = 60000 // sum(counts)
    covered = held_out = 0
    for _ in range(tables):
        runs = [random.normal(size=count) * 0.02 + random.normal() for count in counts]
        result = coverage(runs, level=level)
        covered, held_out = covered + result.covered, held_out + result.held_out
    # runs of one table hang together a little: allow for five standard errors of as many tables
    assert covered / held_out == pytest.approx(level, abs=5 * math.sqrt(level * (1 - level) / tables))


def test_intervals_of_a_table_of_sixty() -> None:
    """Intervals hold 85 to 95 % of fresh seeds, as promised for real replicates, where the noise is known."""
    shares = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        runs = [3 + random.normal() + 0.02 * random.normal(size=3) for _ in range(60)]
        shares.append(coverage(runs).share)
    assert np.mean(shares) == pytest.approx(0.9, abs=0.005)
    assert np.mean([0.85 <= share <= 0.95 for share in shares]) > 0.9


def test_wrong_noise_is_seen() -> None:
    """Coverage is no formality: a tenth of the architectures being ten times as noisy, theirs fail alone."""
    random = np.random.default_rng(1)
    calm = [random.normal(size=4) * 0.1 for _ in range(90)]
    noisy = [random.normal(size=4) for _ in range(10)]
    result = coverage([*calm, *noisy])
    assert result.held_out == 400
    assert 360 < result.covered < 390  # every calm one, and few of the 40
