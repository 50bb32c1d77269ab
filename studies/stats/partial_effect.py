"""A permutation test for the effect of one factor on a result, given all other factors.

Freedman and Lane (1983): the result's ranks are regressed on the other factors, and the residuals are
permuted. The statistic is the F of the factor added to that regression. Without other factors it is a
permutation test of the Kruskal-Wallis statistic, since F of ranks grows with H.

Where a sampler chooses factors jointly, a factor without effect goes with one that has an effect, and a test
of it alone finds that one. What the others explain is therefore taken away first. With few observations not
all of them can be: those that explain most are, up to SHARE of the degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Groups = NDArray[np.int64]

DRAWS = 999
SHARE = 1 / 3  # of the observations: columns of other factors at most
SINGULAR = 1e-8  # relative to the largest singular value
ROUNDING = 1e-9  # of the statistic
FEWEST = 2  # degrees of freedom left for the error


def partial_effect_p(
    factor: Groups, others: Sequence[Groups], values: Array, seed: int, draws: int = DRAWS
) -> float | None:
    """Return the p-value of the factor's effect.

    Args:
        factor: (n,) group of each observation.
        others: likewise for every other factor.
        values: (n,) results.
        seed: of the permutations.
        draws: number of permutations.

    Returns:
        None where the factor is constant given the others, or too few observations are left.
    """
    from scipy.stats import rankdata

    if np.ptp(values) == 0:
        return 1.0
    ranks = np.asarray(rankdata(values), dtype=np.float64)
    count = len(ranks)
    known = _explain(ranks, [_columns(other) for other in others])
    own = _added(known, _columns(factor))
    if own.shape[1] == 0 or count - known.shape[1] - own.shape[1] < FEWEST:
        return None
    fitted = known @ (known.T @ ranks)
    residuals = ranks - fitted
    # columns: the observed residuals, then permutations; those of the fit explain nothing beyond `known`
    orders = np.random.default_rng(seed).permuted(np.tile(residuals, (draws, 1)), axis=1).T
    tables = np.column_stack([residuals, orders])
    tables = tables - known @ (known.T @ tables)
    effects = np.square(own.T @ tables).sum(axis=0)
    errors = np.square(tables).sum(axis=0) - effects
    statistics = effects / np.maximum(errors, ROUNDING)
    extreme = statistics[1:] >= statistics[0] * (1 - ROUNDING)
    return float((1 + extreme.sum()) / (1 + draws))


def _explain(ranks: Array, blocks: list[Array]) -> Array:
    """Return an orthonormal basis (n, k) of the mean and the factors to take away."""
    count = len(ranks)
    known = np.full((count, 1), count**-0.5)
    room = 1 + int(SHARE * count)
    if 1 + sum(block.shape[1] for block in blocks) <= room:
        return np.column_stack([known, _added(known, np.column_stack([known[:, :0], *blocks]))])
    left = dict(enumerate(blocks))
    residuals = ranks - ranks.mean()
    while left:
        added = {index: _added(known, block) for index, block in left.items()}
        left = {
            index: left[index]
            for index, columns in added.items()
            if columns.shape[1] and known.shape[1] + columns.shape[1] <= room
        }
        if not left:
            break
        best = max(left, key=lambda index: np.square(added[index].T @ residuals).mean())
        known = np.column_stack([known, added[best]])
        residuals = residuals - added[best] @ (added[best].T @ residuals)
        del left[best]
    return known


def _columns(groups: Groups) -> Array:
    """Return a column of 0 and 1 for each group but the first."""
    return np.asarray(groups[:, None] == np.unique(groups)[None, 1:], dtype=np.float64)


def _added(known: Array, columns: Array) -> Array:
    """Return an orthonormal basis of what the columns add to the span of `known`."""
    rest = columns - known @ (known.T @ columns)
    if not rest.size or np.abs(rest).max() < SINGULAR:
        return rest[:, :0]
    left, scale, _ = np.linalg.svd(rest, full_matrices=False)
    return np.asarray(left[:, scale > SINGULAR * max(scale[0], 1.0)])
