"""The probability that an architecture is on the front, for exact costs and noisy results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from studies.stats.seed_noise import Array, Noise

DRAWS = 2000


class FrontProbability:
    """Pareto fronts of `DRAWS` posterior samples of the true objective values.

    The true results of all architectures are drawn from their posterior under a flat prior: one variance
    s^2 df / chi^2(df) that all share, then normal with it over the number of runs. Alone, each is Student's t
    around its mean.

    Args:
        costs: (a, c) exact objectives, lower is better.
        means: (a, k) means of the measured objectives, lower is better.
        runs: (a,) how many each mean is over.
        noise: of one run; its covariance is over the k measured objectives.
        seed: of the draws.

    Attributes:
        probability: (a,) share of the draws in which the architecture is on the front.
    """

    def __init__(
        self, costs: Array, means: Array, runs: NDArray[np.int64], noise: Noise, seed: int, draws: int = DRAWS
    ) -> None:
        random = np.random.default_rng(seed)
        spread = np.sqrt(noise.df / random.chisquare(noise.df, size=draws))
        values, axes = np.linalg.eigh(noise.covariance)
        root = axes * np.sqrt(np.maximum(values, 0))  # (k, k): root @ root.T is the covariance
        steps = random.standard_normal((draws, *means.shape)) @ root.T
        steps *= spread[:, None, None] / np.sqrt(runs)[None, :, None]
        self.drawn = np.ascontiguousarray((means + steps).transpose(2, 1, 0))  # (k, a, draws)
        self.lowest, self.highest = self.drawn.min(axis=2), self.drawn.max(axis=2)  # (k, a)
        self.cheaper, self.equal = _by_cost(costs)
        self._on_front = np.array([~self._dominated(index) for index in range(len(means))])  # (a, draws)
        self.probability = self._on_front.mean(axis=1)

    def whole(self, front: Sequence[int]) -> float:
        """Return the share of the draws whose front is exactly this one: all of these and no other."""
        wanted = np.isin(np.arange(len(self._on_front)), front)
        return float((self._on_front == wanted[:, None]).all(axis=0).mean())

    def rivals(self, index: int, share: float) -> NDArray[np.intp]:
        """Return the architectures that dominate this one in at least `share` of the draws."""
        others = self._others(index)
        often = self._beats(index, others).mean(axis=1) >= share
        return np.asarray(others[often], dtype=np.intp)

    def _dominated(self, index: int) -> NDArray[np.bool_]:
        """Return (draws,) whether any other dominates this architecture."""
        others = self._others(index)
        if (self.highest[:, others] < self.lowest[:, index, None]).all(axis=0).any():
            return np.ones(self.drawn.shape[2], dtype=bool)
        return np.asarray(self._beats(index, others).any(axis=0), dtype=np.bool_)

    def _others(self, index: int) -> NDArray[np.intp]:
        """Return the architectures that can dominate this one by their costs, and may in some draw."""
        near = (self.lowest <= self.highest[:, index, None]).all(axis=0)
        return np.flatnonzero((self.cheaper[index] | self.equal[index]) & near)

    def _beats(self, index: int, others: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return (others, draws) whether each of them dominates this architecture."""
        beats = np.ones((len(others), self.drawn.shape[2]), dtype=bool)
        for column in self.drawn:
            beats &= column[others] <= column[index]
        same = np.flatnonzero(self.equal[index][others])
        if same.size:
            beats[same] &= (self.drawn[:, others[same]] < self.drawn[:, index, None]).any(axis=0)
        return beats


def _by_cost(costs: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (cheaper, equal), each (a, a), row i, column j.

    `cheaper`: j costs no more than i, and less somewhere or comes first; it dominates i if it is no worse.
    `equal`: j costs the same and comes later; it has to be better.
    """
    count = len(costs)
    least = np.ones((count, count), dtype=bool)
    same = np.ones((count, count), dtype=bool)
    for column in costs.T:
        least &= column[None, :] <= column[:, None]
        same &= column[None, :] == column[:, None]
    later = np.triu(np.ones((count, count), dtype=bool), k=1)
    earlier = later.T
    return least & (~same | earlier), same & later
