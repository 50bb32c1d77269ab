"""Improves a choice under the terms of all pairs, which the solver's program leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from studies.selection.interactions import SecondOrder
from studies.selection.problem import Array, Choice, Limits, Solution

TOLERANCE = 1e-12  # nats/token, below which a move is no improvement


def local_search(model: SecondOrder, choice: Sequence[int], limits: Limits) -> Solution:
    """Return a choice within the limits that no change of one or two parts improves; deterministic.

    The best change of one part is made until there is none, then the best of two parts (which covers swaps
    between parts, and trading a saving here for quality there), and again.

    Args:
        choice: where to start, within the limits.
    """
    assert model.selection.keeps(choice, limits)
    state = _State(model, choice, limits)
    while state.change_one() or state.change_two():
        pass
    final = state.choice()
    return Solution(final, model.predict(final), model.selection.total(final))


class _State:
    """A choice, and what every change of one part would do to its score and costs."""

    def __init__(self, model: SecondOrder, choice: Sequence[int], limits: Limits) -> None:
        selection = model.selection
        self.model = model
        self.parts = np.repeat(np.arange(len(selection.sizes)), selection.sizes)
        self.rows = model.starts + np.asarray(choice)
        self.costs = {metric: np.concatenate(selection.costs[metric]) for metric in limits}
        self.limits = {
            metric: (
                -math.inf if low is None else math.ceil(low) - selection.base[metric],
                math.inf if high is None else math.floor(high) - selection.base[metric],
            )
            for metric, (low, high) in limits.items()
        }
        self.possible = np.isfinite(model.scores)
        self.scores = np.where(self.possible, model.scores, 0)

    def choice(self) -> Choice:
        return tuple(int(row) for row in self.rows - self.model.starts)

    def change_one(self) -> bool:
        """Make the best change of one part; return whether one improves the score."""
        gain = np.where(self.possible & self._kept(self._steps()), self._changes(), np.inf)
        best = int(gain.argmin())
        if gain[best] >= -TOLERANCE:
            return False
        self.rows[self.parts[best]] = best
        return True

    def change_two(self) -> bool:
        """Make the best change of two parts at once; return whether one improves the score."""
        changes, now = self._changes(), self.rows[self.parts]
        terms = self.model.terms
        # what the two do to each other, beyond what each does to the present choice
        together = terms - terms[:, now] - terms[now, :] + terms[np.ix_(now, now)]
        gain = changes[:, None] + changes[None, :] + together
        steps = {metric: step[:, None] + step[None, :] for metric, step in self._steps().items()}
        allowed = self._kept(steps) & self.possible[:, None] & self.possible[None, :]
        allowed &= self.parts[:, None] < self.parts[None, :]
        gain = np.where(allowed, gain, np.inf)
        first, second = np.unravel_index(int(gain.argmin()), gain.shape)
        if gain[first, second] >= -TOLERANCE:
            return False
        self.rows[self.parts[[first, second]]] = first, second
        return True

    def _changes(self) -> Array:
        """Return (options,): by how much the score would rise with each option in its part's position."""
        alone = self.scores + self.model.terms[:, self.rows].sum(axis=1)
        return np.asarray(alone - alone[self.rows][self.parts])

    def _steps(self) -> dict[str, NDArray[np.int64]]:
        return {metric: costs - costs[self.rows][self.parts] for metric, costs in self.costs.items()}

    def _kept(self, steps: dict[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Return which changes of cost, per metric, leave the choice within the limits."""
        result = np.asarray(True)
        for metric, step in steps.items():
            low, high = self.limits[metric]
            cost = int(self.costs[metric][self.rows].sum()) + step
            result = result & (cost >= low) & (cost <= high)
        return result
