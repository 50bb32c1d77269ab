"""Rank correlations, with a third quantity partialled out, and their bootstrap intervals.

Every function takes (..., n) arrays and correlates along the last axis, so that a bootstrap is one call.
SciPy computes the correlations; it has none with a third quantity partialled out. It is loaded by the
functions, since that takes half a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[..., Array]

DRAWS = 2000
LEVEL = 0.9  # of intervals
FEWEST = 4  # observations below which nothing is estimated


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


def spearman(x: Array, y: Array) -> Array:
    """Return Spearman's rho: Pearson's correlation of the ranks."""
    from scipy.stats import spearmanrho

    with _constants_are_nan():
        return np.asarray(spearmanrho(x, y, axis=-1).statistic)


def kendall(x: Array, y: Array) -> Array:
    """Return Kendall's tau-b: concordant less discordant pairs, over the geometric mean of untied pairs."""
    from scipy.stats import kendalltau

    # an exact p-value, which is not used here, would take twice as long
    return np.asarray(kendalltau(x, y, axis=-1, method="asymptotic").statistic)


def partial_spearman(x: Array, y: Array, given: Array) -> Array:
    """Return Spearman's rho of x and y, `given` partialled out; NaN if either is a function of it.

    Pearson's correlation between the residuals of the ranks of x and of y after a linear regression of each
    on the ranks of `given`. Equal to (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)) (Kim 2015, ppcor).
    """
    from scipy.stats import pearsonr

    with _constants_are_nan():
        return np.asarray(pearsonr(_left_over(x, given), _left_over(y, given), axis=-1).statistic)


def partial_kendall(x: Array, y: Array, given: Array) -> Array:
    """Return Kendall's tau-b of the residual ranks of x and y, as in `partial_spearman`.

    Not Kendall's own partial tau (Biometrika 32, 1942), which puts tau into the formula above: that one is
    not 0 where x and y have nothing but `given` in common (Korn 1984, The American Statistician 38).
    """
    return kendall(_left_over(x, given), _left_over(y, given))


def bootstrap(statistic: Statistic, *columns: Array, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Return the statistic of the columns and its percentile interval (Efron 1979).

    Rows are drawn with replacement. Equal seeds and lengths give equal draws, so that two
    estimates can be compared row by row.
    """
    count = len(columns[0])
    if count < FEWEST:
        return Estimate(np.nan, np.nan, np.nan)
    index = np.random.default_rng(seed).integers(count, size=(draws, count))
    samples = statistic(*(column[index] for column in columns))
    samples = samples[np.isfinite(samples)]
    value = float(statistic(*columns))
    if not np.isfinite(value) or not len(samples):
        return Estimate(np.nan, np.nan, np.nan)
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def _left_over(values: Array, given: Array) -> Array:
    """Return residuals of the ranks after a linear regression on those of `given`; rounding errors are 0."""
    y, z = _centred_ranks(values), _centred_ranks(given)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (y * z).sum(-1, keepdims=True) / (z * z).sum(-1, keepdims=True)
    return np.asarray(np.round(y - np.where(np.isfinite(slope), slope, 0.0) * z, 9))


def _centred_ranks(values: Array) -> Array:
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=-1)  # ties share their mean rank
    return np.asarray(ranks - ranks.mean(-1, keepdims=True))


@contextmanager
def _constants_are_nan() -> Iterator[None]:
    """Leave out SciPy's warning that a constant has no correlation: such draws are NaN, and left out."""
    from scipy.stats import ConstantInputWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        yield
