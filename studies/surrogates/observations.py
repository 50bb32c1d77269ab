"""Observations of a study at one moment, as arrays: costs, loss curves as far as measured, descriptors."""

from __future__ import annotations

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
