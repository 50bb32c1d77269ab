"""Rank correlations, with a third quantity partialled out, and their bootstrap intervals.

Every function takes (..., n) arrays and correlates along the last axis, so that a bootstrap is one call.
Spearman's rho and Kendall's tau-b are both Daniels's generalised coefficient (Biometrika 33, 1944): the
cosine between the scores of two rankings, which are centred ranks for rho and signs of all pairs for tau-b.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[..., Array]

DRAWS = 2000
LEVEL = 0.9  # of intervals
FEWEST = 4  # observations below which nothing is estimated
_CELLS = 4_000_000  # of pair tables held at once


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval; NaN where it can't be computed, as for a constant."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def to_list(self) -> list[float | None]:
        """Return [value, low, high]; None for NaN, which JSON lacks."""
        return [None if np.isnan(item) else item for item in (self.value, self.low, self.high)]


def ranks(values: Array) -> Array:
    """Return the ranks from 1; ties share their mean rank."""
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return np.asarray(below + (equal + 1) / 2)


def shuffled(values: Array, draws: int, seed: int = 0) -> Array:
    """Return (draws, n): the (n,) values in random orders, for permutation tests."""
    return np.random.default_rng(seed).permuted(np.tile(values, (draws, 1)), axis=1)


def spearman(x: Array, y: Array) -> Array:
    """Return Spearman's rho: Pearson's correlation of the ranks."""
    return _cosine(_rank_scores(x), _rank_scores(y))


def kendall(x: Array, y: Array) -> Array:
    """Return Kendall's tau-b: concordant less discordant pairs, over the geometric mean of untied pairs."""
    return _cosine(_pair_scores(x), _pair_scores(y))


def partial_spearman(x: Array, y: Array, given: Array) -> Array:
    """Return Spearman's rho of x and y, `given` partialled out; NaN if either is a function of it.

    Pearson's correlation between the residuals of the ranks of x and of y after a linear regression of each
    on the ranks of `given`. Equal to (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)) (Kim 2015, ppcor).
    """
    return _cosine(_left_over(x, given), _left_over(y, given))


def partial_kendall(x: Array, y: Array, given: Array) -> Array:
    """Return Kendall's tau-b of the residual ranks of x and y, as in `partial_spearman`.

    Not Kendall's own partial tau (Biometrika 32, 1942), which puts tau into the formula above: that one is
    not 0 where x and y have nothing but `given` in common (Korn 1984, The American Statistician 38).
    """
    return _cosine(_pair_scores(_left_over(x, given)), _pair_scores(_left_over(y, given)))


def bootstrap(statistic: Statistic, *columns: Array, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Return the statistic of the columns and its percentile interval (Efron 1979).

    Rows are drawn with replacement. Equal seeds and lengths give equal draws, so that two
    estimates can be compared row by row.
    """
    count = len(columns[0])
    if count < FEWEST:
        return Estimate(np.nan, np.nan, np.nan)
    index = np.random.default_rng(seed).integers(count, size=(draws, count))
    rows = max(1, _CELLS // count**2)
    parts = [
        statistic(*(column[index[start : start + rows]] for column in columns))
        for start in range(0, draws, rows)
    ]
    samples = np.concatenate(parts)
    samples = samples[np.isfinite(samples)]
    value = float(statistic(*columns))
    if not np.isfinite(value) or not len(samples):
        return Estimate(np.nan, np.nan, np.nan)
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def _rank_scores(values: Array) -> Array:
    ranked = ranks(values)
    return np.asarray(ranked - ranked.mean(-1, keepdims=True))


def _pair_scores(values: Array) -> Array:
    signs = np.sign(values[..., :, None] - values[..., None, :])
    return np.asarray(signs.reshape(*values.shape[:-1], -1))


def _cosine(a: Array, b: Array) -> Array:
    length = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(-1) / length)


def _left_over(values: Array, given: Array) -> Array:
    """Return residuals of the ranks after a linear regression on those of `given`; rounding errors are 0."""
    y, z = _rank_scores(values), _rank_scores(given)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (y * z).sum(-1, keepdims=True) / (z * z).sum(-1, keepdims=True)
    return np.asarray(np.round(y - np.where(np.isfinite(slope), slope, 0.0) * z, 9))
