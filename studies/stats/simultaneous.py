"""Simultaneous bounds for many differences of means that share one noise: a max-t method, by simulation.

Of many statements that hold at 95 % each, some are wrong. Bounds that hold all together need a larger
multiple of the standard error: the quantile of the largest error among all differences, in units of their
standard errors (Dunnett 1955; Hothorn, Bretz and Westfall 2008). Differences share means and the noise, so
that it is smaller than Bonferroni's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000


def simultaneous_factor(
    runs: NDArray[np.int64],
    differences: Sequence[tuple[int, NDArray[np.intp]]],
    df: int,
    level: float,
    seed: int,
    draws: int = DRAWS,
) -> float:
    """Return c such that with probability `level` no difference is overestimated by c standard errors.

    The standard error of a difference is s sqrt(1/n + 1/m), s being estimated with `df` degrees of freedom.

    Args:
        runs: (a,) how many each mean is over.
        differences: (one, others): the differences of one mean from each of the others.
        df: degrees of freedom of the noise.
        level: one-sided; by symmetry, it holds for underestimates as well.
        seed: of the draws.
        draws: number of simulated sets of means.
    """
    random = np.random.default_rng(seed)
    errors = random.standard_normal((draws, len(runs))) / np.sqrt(runs)
    noise = np.sqrt(random.chisquare(df, draws) / df)
    largest = np.full(draws, -np.inf)
    for one, others in differences:
        apart = (errors[:, [one]] - errors[:, others]) / np.sqrt(1 / runs[one] + 1 / runs[others])
        largest = np.maximum(largest, apart.max(axis=1))
    return float(np.quantile(largest / noise, level))
