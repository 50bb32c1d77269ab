"""Observations of a study at one moment, as arrays: costs, loss curves as far as measured, descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Observations:
    """One row per architecture.

    Attributes:
        numbers: (n,) trial numbers.
        costs: (n, objectives - 1) every objective but the loss, lower is better, known before the last rung.
        curves: (n, rungs) held-out loss in nats/token at each rung, NaN where a run did not get to; the
            last is the result.
        features: (n, f) descriptors of the architecture, from which its loss is predicted.
        exempt: (n,) whether early stopping never pauses the run: the papers' own designs.
        feasible: (n,) whether it may be on the front at all.
    """

    numbers: NDArray[np.int64]
    costs: Floats
    curves: Floats
    features: Floats
    exempt: Bools
    feasible: Bools

    @classmethod
    def of(
        cls,
        numbers: Sequence[int],
        costs: Sequence[Sequence[float]],
        curves: Sequence[Sequence[float]],
        features: Sequence[Sequence[float]],
        rungs: int,
        exempt: Sequence[bool] = (),
        feasible: Sequence[bool] = (),
    ) -> Observations:
        """Build observations from lists; curves may be shorter than `rungs`.

        By default nothing is exempt and everything is feasible.
        """
        count = len(numbers)
        padded = np.full((count, rungs), np.nan)
        for row, curve in enumerate(curves):
            padded[row, : len(curve)] = curve
        return cls(
            np.asarray(numbers, dtype=np.int64),
            _table(costs),
            padded,
            _table(features),
            np.asarray(exempt or [False] * count, dtype=np.bool_),
            np.asarray(feasible or [True] * count, dtype=np.bool_),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def reached(self) -> NDArray[np.int64]:
        """(n,) number of rungs that each run has a loss at."""
        return np.asarray((~np.isnan(self.curves)).sum(axis=1), dtype=np.int64)

    @cached_property
    def finished(self) -> Bools:
        """(n,) whether each run is trained to the end."""
        return np.asarray(~np.isnan(self.curves[:, -1]), dtype=np.bool_)

    def cheaper(self, row: int) -> Bools:
        """Return (n,) which feasible runs cost no more than this one in every cost, without itself."""
        cheaper = np.asarray((self.costs <= self.costs[row]).all(axis=1) & self.feasible, dtype=np.bool_)
        cheaper[row] = False
        return cheaper

    @property
    def last(self) -> Floats:
        """(n,) loss at the last rung that each run reached; NaN where it reached none."""
        rungs = np.maximum(self.reached - 1, 0)
        return np.asarray(self.curves[np.arange(len(self)), rungs])


def _table(rows: Sequence[Sequence[float]]) -> Floats:
    """Return an array (rows, columns), also without rows or columns."""
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(rows[0]) if rows else 0)
