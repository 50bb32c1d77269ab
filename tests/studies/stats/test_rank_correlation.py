"""Rank correlations against pair counting, regression of ranks and published values; intervals that cover."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import rankdata

from studies.stats.rank_correlation import (
    FEWEST,
    LEVEL,
    bootstrap,
    kendall,
    partial_kendall,
    partial_spearman,
    spearman,
)

Array = NDArray[np.float64]


@st.composite
def tables(draw: st.DrawFn, columns: int = 2) -> Array:
    """(columns, n) with many ties, no column constant."""
    count = draw(st.integers(3, 12))
    value = st.integers(-2, 2).map(float) | st.floats(-1e3, 1e3)
    column = st.lists(value, min_size=count, max_size=count).filter(lambda result: len(set(result)) > 1)
    return np.array([draw(column) for _ in range(columns)])


@given(tables())
def test_tau_b_counts_pairs(table: Array) -> None:
    x, y = table.tolist()
    concordant = discordant = tied_x = tied_y = 0
    pairs = list(combinations(range(len(x)), 2))
    for i, j in pairs:
        a, b = (x[i] > x[j]) - (x[i] < x[j]), (y[i] > y[j]) - (y[i] < y[j])
        concordant += a * b > 0
        discordant += a * b < 0
        tied_x += a == 0
        tied_y += b == 0
    expected = (concordant - discordant) / math.sqrt((len(pairs) - tied_x) * (len(pairs) - tied_y))
    assert kendall(*table) == pytest.approx(expected)


@given(tables())
def test_rho_is_pearson_of_the_ranks(table: Array) -> None:
    result = []
    for column in table.tolist():
        order = sorted(column)
        result.append([1 + order.index(item) + (order.count(item) - 1) / 2 for item in column])
    assert spearman(*table) == pytest.approx(np.corrcoef(result)[0, 1])


@given(tables(columns=3))
def test_partial_rho_is_what_regressions_of_ranks_leave(table: Array) -> None:
    x, y, z = rankdata(table, axis=-1)
    design = np.stack([np.ones_like(z), z], axis=1)
    left = [column - design @ np.linalg.lstsq(design, column, rcond=None)[0] for column in (x, y)]
    if min(np.abs(column).max() for column in left) < 1e-6:
        assert np.isnan(partial_spearman(*table))
    else:
        assert partial_spearman(*table) == pytest.approx(np.corrcoef(left)[0, 1], abs=1e-6)


@given(tables(columns=3))
def test_partial_tau_is_tau_of_what_is_left(table: Array) -> None:
    x, y, z = rankdata(table, axis=-1)
    slopes = [np.polyfit(z, column, 1) for column in (x, y)]
    left = [np.round(column - np.polyval(slope, z), 6) for column, slope in zip((x, y), slopes, strict=True)]
    if any(np.ptp(column) < 1e-6 for column in left):
        assert np.isnan(partial_kendall(*table))
    else:
        assert partial_kendall(*table) == pytest.approx(kendall(*left))


def test_what_a_third_quantity_explains_is_gone() -> None:
    rng = np.random.default_rng(1)
    size = rng.normal(size=400)
    x, y = size + 0.1 * rng.normal(size=400), size + 0.1 * rng.normal(size=400)
    assert spearman(x, y) > 0.95
    assert abs(partial_spearman(x, y, size)) < 0.15
    assert abs(partial_kendall(x, y, size)) < 0.15
    assert np.isnan(partial_spearman(size, y, size))


def test_many_rows_at_once_are_the_rows_one_by_one() -> None:
    table = np.random.default_rng(2).integers(0, 4, size=(3, 20, 11)).astype(float)
    for statistic, columns in ((spearman, 2), (kendall, 2), (partial_spearman, 3), (partial_kendall, 3)):
        whole = statistic(*table[:columns])
        rows = [float(statistic(*table[:columns, row])) for row in range(20)]
        np.testing.assert_allclose(whole, rows)


def test_intervals_cover_the_truth() -> None:
    """For a bivariate normal rho_s = 6/pi asin(rho/2) (Pearson 1907), tau = 2/pi asin(rho)."""
    rho, rng, rounds = 0.8, np.random.default_rng(3), 200
    truths = {spearman: 6 / math.pi * math.asin(rho / 2), kendall: 2 / math.pi * math.asin(rho)}
    for statistic, truth in truths.items():
        inside = 0
        for turn in range(rounds):
            x = rng.normal(size=30)
            y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=30)
            result = bootstrap(statistic, x, y, seed=turn, draws=200)
            inside += result.low <= truth <= result.high
        assert 0.8 <= inside / rounds <= 0.97, statistic.__name__
    assert LEVEL == 0.9


def test_draws_follow_the_seed() -> None:
    x, y = np.random.default_rng(4).normal(size=(2, 20))
    assert bootstrap(kendall, x, y) == bootstrap(kendall, x, y) != bootstrap(kendall, x, y, seed=1)


def test_what_cannot_be_estimated() -> None:
    few = np.arange(FEWEST - 1.0)
    assert bootstrap(spearman, few, few).to_list() == [None, None, None]
    constant = np.ones(9)
    assert bootstrap(spearman, constant, np.arange(9.0)).to_list() == [None, None, None]
    perfect = bootstrap(spearman, np.arange(9.0), np.arange(9.0))
    assert perfect.to_list() == pytest.approx([1, 1, 1])
