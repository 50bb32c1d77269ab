"""The problem: parts with options, each with a score and exact costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Choice = tuple[int, ...]  # an option per part
Limits = Mapping[str, tuple[float | None, float | None]]  # metric -> (lowest, highest) cost allowed


@dataclass(frozen=True)
class Solution:
    """A choice with its predicted score and exact costs.

    Attributes:
        choice: an option per part.
        score: what was minimised, in nats/token.
        costs: of the whole model, per metric.
        gap: how much lower the best score could be at most; 0 (to rounding) where the search was finished.
    """

    choice: Choice
    score: float
    costs: Mapping[str, int]
    gap: float = 0.0


@dataclass(frozen=True)
class Selection:
    """Parts, their options, and what each option costs and is worth.

    Scores add up over the parts, after Puzzle (arXiv 2411.19146, section 4). Costs add up exactly.

    Attributes:
        scores: per part, (options,): how much worse the model gets with this option alone, in nats/token.
            Option 0 keeps the part as it is and has score 0. Infinite: never chosen.
        costs: per metric and part, (options,): difference of the whole model's cost from that with option 0.
        base: per metric, the cost of the model with option 0 everywhere.
    """

    scores: Sequence[Array]
    costs: Mapping[str, Sequence[Integers]]
    base: Mapping[str, int]

    def __post_init__(self) -> None:
        sizes = self.sizes
        assert all(size > 0 and part[0] == 0 for size, part in zip(sizes, self.scores, strict=True))
        assert not any(np.isnan(part).any() for part in self.scores)
        assert self.costs.keys() == self.base.keys()
        for parts in self.costs.values():
            assert [len(part) for part in parts] == sizes
            assert all(np.issubdtype(part.dtype, np.integer) and part[0] == 0 for part in parts)

    @property
    def sizes(self) -> list[int]:
        """Number of options per part."""
        return [len(part) for part in self.scores]

    def score(self, choice: Sequence[int]) -> float:
        """Return the sum of the chosen options' scores."""
        return sum(float(part[i]) for part, i in zip(self.scores, choice, strict=True))

    def total(self, choice: Sequence[int]) -> dict[str, int]:
        """Return the exact cost of the model with these options, per metric."""
        return {
            metric: self.base[metric] + sum(int(part[i]) for part, i in zip(parts, choice, strict=True))
            for metric, parts in self.costs.items()
        }

    def cheapest(self, metric: str) -> int:
        """Return the lowest cost that any choice has in this metric alone, forbidden options left out."""
        parts = zip(self.costs[metric], self.scores, strict=True)
        return self.base[metric] + sum(int(cost[np.isfinite(score)].min()) for cost, score in parts)

    def keeps(self, choice: Sequence[int], limits: Limits) -> bool:
        """Return whether this choice costs what the limits allow, compared in integers."""
        return within(self.total(choice), limits)


def within(costs: Mapping[str, int], limits: Limits) -> bool:
    """Return whether costs, per metric, are within the limits."""
    return all(
        (low is None or costs[metric] >= low) and (high is None or costs[metric] <= high)
        for metric, (low, high) in limits.items()
    )


def distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of parts whose options differ (Hamming distance)."""
    return sum(i != j for i, j in zip(first, second, strict=True))
