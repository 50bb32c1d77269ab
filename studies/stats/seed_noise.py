"""Seed noise: the spread of trainings of one architecture, pooled over architectures, and its intervals.

The model is one-way analysis of variance: a run is its architecture's own mean plus normal noise of a
standard deviation that all architectures share. It is estimated within those that ran at least twice, with
one degree of freedom per run beyond the first; intervals are Student's t with these degrees of freedom. Where
nothing ran twice there is no estimate and no interval.

An architecture on the front was chosen, in part, for a lucky first run. That draws its mean down and the
pooled noise up, less with every replicate; the coverage of held-out replicates shows what is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.9  # of every interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Pooled covariance (k, k) of the k measured objectives of one run, and its degrees of freedom.

    Every half width is an array (k,) in the objectives' units, at LEVEL if nothing else is said.
    """

    covariance: Array
    df: int

    @property
    def sd(self) -> Array:
        """Standard deviation of a run, one per objective."""
        return np.sqrt(np.diag(self.covariance))

    def mean(self, runs: int) -> Array:
        """Return the half width for the mean that an architecture would reach over endless seeds."""
        return self._half(1 / runs)

    def fresh(self, runs: int) -> Array:
        """Return the half width for the result of one more seed."""
        return self._half(1 + 1 / runs)

    def difference(self, runs: int, others: int, factor: float | None = None) -> Array:
        """Return the half width for the difference of two architectures' means.

        Args:
            runs: how many the one mean is over.
            others: likewise the other.
            factor: standard errors in a half width; None: those of a single interval at LEVEL.
        """
        return self._half(1 / runs + 1 / others, factor)

    def _half(self, variances: float, factor: float | None = None) -> Array:
        factor = t_factor(LEVEL, self.df) if factor is None else factor
        return np.asarray(factor * self.sd * np.sqrt(variances), dtype=np.float64)


def t_factor(level: float, df: int) -> float:
    """Return t such that |T| < t with probability `level`, for Student's T with `df` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))


def widened(sd: Array, df: int) -> Array:
    """Return standard deviations whose normal interval at LEVEL is that of Student's t with `df`."""
    from scipy.special import ndtri

    return np.asarray(sd * (t_factor(LEVEL, df) / ndtri((1 + LEVEL) / 2)), dtype=np.float64)


def pool(runs: Sequence[ArrayLike]) -> Noise | None:
    """Pool the noise within architectures.

    Args:
        runs: an array (n, k) for each architecture, n runs of k objectives.

    Returns:
        None where no architecture ran twice.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in runs]
    df = sum(len(table) - 1 for table in tables)
    if df < 1:
        return None
    centred = np.concatenate([table - table.mean(axis=0) for table in tables if len(table) > 1])
    return Noise(centred.T @ centred / df, df)


@dataclass(frozen=True)
class Coverage:
    """Number of runs that fell into the interval that the other runs gave for them."""

    covered: int
    held_out: int

    @property
    def share(self) -> float:
        """Share of the held-out runs that are covered; NaN without any."""
        return self.covered / self.held_out if self.held_out else float("nan")


def coverage(runs: Sequence[ArrayLike], *, level: float = LEVEL, skip: int = 0) -> Coverage:
    """Return the leave-one-out coverage of the interval for a fresh seed's result.

    Each run in turn is held out; mean and pooled noise of all other runs predict it. With normal noise
    (x - mean) / (s sqrt(1 + 1/(n-1))) is Student's t exactly, so that `level` of them are covered in the long
    run, however few they are.

    Args:
        runs: an array (n,) for each architecture: one objective of its n runs.
        skip: runs at the start of each that are never held out. A trial on the front was chosen for its
            first run, which is no fresh seed: 1 holds out its replicates alone.

    Returns:
        Runs of architectures that ran once, and a sole pair, can't be predicted and are not held out.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in runs]
    df = sum(len(table) - 1 for table in tables) - 1  # without the one that is held out
    if df < 1:
        return Coverage(0, 0)
    squares = [float(((table - table.mean()) ** 2).sum()) for table in tables]
    total = sum(squares)
    factor = t_factor(level, df)
    covered = held_out = 0
    for table in tables:
        n = len(table)
        if n < 2:
            continue
        away = table[skip:] - table.mean()
        # without x, the sum of squares around the mean of the rest is less by n/(n-1) away^2
        variance = np.maximum(0.0, total - n / (n - 1) * away**2) / df
        error = np.abs(away) * n / (n - 1)  # x - mean of the rest
        half = factor * np.sqrt(variance * (1 + 1 / (n - 1)))
        covered += int((error <= half).sum())
        held_out += len(away)
    return Coverage(covered, held_out)
