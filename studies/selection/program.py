"""A selection under limits as a mixed integer linear program.

One binary variable per option, those of a part adding up to 1. Rows of costs are integers divided by their
greatest common divisor, and scaled where they are still large, so that HiGHS's tolerance of 1e-6 stays far
below one unit of cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.selection.problem import Array, Choice, Integers, Limits, Selection
from studies.selection.quiet import quiet

LARGEST_COST = 1e4  # coefficient in a row of costs
CORE = 2  # options per part that are tried first
MARGIN = 1.2  # of what the choice before needed
ROUNDING = 1e-6  # of the scaled objective
LARGEST_SCORE = 1e3  # coefficient of the objective: HiGHS stops at an absolute gap of 1e-6


class Program:
    """Minimise `objective` x under low <= rows x <= high, x binary."""

    def __init__(self, selection: Selection) -> None:
        """Start with one option per part; no limits yet."""
        self.starts = np.concatenate([[0], np.cumsum(selection.sizes)])
        scores = np.concatenate(selection.scores)
        self.allowed = np.isfinite(scores)
        finite = np.where(self.allowed, scores, 0.0)
        largest = np.abs(finite).max()
        self.scale = LARGEST_SCORE / largest if largest > 0 else 1.0
        self.objective: Array = finite * self.scale
        self.indices: list[list[int]] = []
        self.values: list[list[float]] = []
        self.low: list[float] = []
        self.high: list[float] = []
        for start, stop in zip(self.starts[:-1], self.starts[1:], strict=True):
            self.add(range(start, stop), [1.0] * (stop - start), 1, 1)
        self._reach = 0.0  # how far answers so far were above their relaxations

    def add(self, columns: Sequence[int], values: Sequence[float], low: float, high: float) -> None:
        """Add the row low <= sum of values x[columns] <= high."""
        self.indices.append(list(columns))
        self.values.append(list(values))
        self.low.append(low)
        self.high.append(high)

    def exclude(self, choice: Choice, distance: int) -> None:
        """Cut off all choices that differ from this one in fewer than `distance` parts."""
        columns = [int(start) + option for start, option in zip(self.starts[:-1], choice, strict=True)]
        self.add(columns, [1.0] * len(columns), -np.inf, len(columns) - distance)

    def minimise(self, gap: float) -> tuple[Choice, float] | None:
        """Return the best choice and a lower bound of its score; None: there is none.

        Most options never appear in a good choice. One whose reduced cost in the relaxation is r makes the
        objective at least the relaxation's + r, so that options above a guessed r are left out, and the
        answer is proved by its own value, or the guess raised to it (Balas and Zemel 1980, the core of a
        knapsack problem).
        """
        matrix = self._matrix()
        relaxed = self._relaxation(matrix)
        if relaxed is None:
            return None
        bound, reduced = relaxed
        reach = max(MARGIN * self._reach, float(np.sort(reduced)[: CORE * len(self.starts)].max()))
        while True:
            inside = reduced <= reach + ROUNDING
            result = self._solve(matrix, inside & self.allowed, gap)
            if result.x is not None:
                reach = max(reach, float(result.fun) - bound)
                if (inside == (reduced <= reach + ROUNDING)).all():
                    break
            elif inside.all():
                return None
            else:
                reach = 4 * reach + ROUNDING
        self._reach = max(self._reach, float(result.fun) - bound)
        parts = np.split(result.x, self.starts[1:-1])
        proved = float(result.mip_dual_bound)
        if not inside.all():
            proved = min(proved, bound + reach)
        return tuple(int(part.argmax()) for part in parts), proved / self.scale

    def _matrix(self) -> Any:
        from scipy.sparse import csr_array

        pointers = np.concatenate([[0], np.cumsum([len(columns) for columns in self.indices])])
        columns = np.concatenate(self.indices)
        return csr_array(
            (np.concatenate(self.values), columns.astype(np.int32), pointers.astype(np.int32)),
            shape=(len(self.indices), len(self.objective)),
        )

    def _relaxation(self, matrix: Any) -> tuple[float, Array] | None:
        """Return the optimum without integrality, and the reduced cost per variable."""
        from scipy.optimize import linprog
        from scipy.sparse import vstack

        low, high = np.array(self.low), np.array(self.high)
        equal, above, below = low == high, (low < high) & np.isfinite(low), (low < high) & np.isfinite(high)
        result = linprog(
            self.objective,
            A_ub=vstack([matrix[below], -matrix[above]]),
            b_ub=np.concatenate([high[below], -low[above]]),
            A_eq=matrix[equal],
            b_eq=high[equal],
            bounds=[(0, None if allowed else 0) for allowed in self.allowed],  # at most 1 by the parts' rows
            method="highs",
        )
        if result.status == 2:
            return None
        if result.status != 0:  # numerical trouble: no bound, and no option is left out
            return -np.inf, np.zeros_like(self.objective)
        return float(result.fun), np.maximum(np.asarray(result.lower.marginals), 0.0)

    def _solve(self, matrix: Any, allowed: NDArray[np.bool_], gap: float) -> Any:
        from scipy.optimize import Bounds, LinearConstraint, milp

        for presolve in (True, False):  # with it HiGHS now and then ends in "Solve error" on small programs
            with quiet():
                result = milp(
                    self.objective,
                    integrality=np.ones(len(self.objective), dtype=np.int64),
                    bounds=Bounds(0, allowed.astype(np.float64)),
                    constraints=LinearConstraint(matrix, np.array(self.low), np.array(self.high)),
                    options={"mip_rel_gap": gap, "presolve": presolve},
                )
            if result.status in (0, 2):  # optimal, infeasible
                return result
        raise RuntimeError(f"HiGHS solved neither with nor without presolve: {result.message}")


def program(selection: Selection, limits: Limits) -> Program | None:
    """Return the program of a selection; None: one of the limits alone can't be kept."""
    result = Program(selection)
    for metric, (low, high) in limits.items():
        base, parts = selection.base[metric], selection.costs[metric]
        lowest = -math.inf if low is None else math.ceil(low) - base
        highest = math.inf if high is None else math.floor(high) - base
        if not _add_limit(result, np.concatenate(parts), lowest, highest):
            return None
    return result


def _add_limit(rows: Program, costs: Integers, low: float, high: float) -> bool:
    """Add low <= costs x <= high, as far as it says anything; return whether any choice can keep it."""
    parts = np.split(np.where(rows.allowed, costs, 0), rows.starts[1:-1])
    least, most = (sum(int(ends(part)) for part in parts) for ends in (np.min, np.max))
    if low > most or high < least or low > high:
        return False
    if low <= least and high >= most:
        return True
    divisor = int(np.gcd.reduce(costs))
    low = -math.inf if low <= least else -(-int(low) // divisor)
    high = math.inf if high >= most else int(high) // divisor
    if low > high:
        return False
    columns = np.flatnonzero(costs)
    values = (costs[columns] // divisor).astype(np.float64)
    scale = min(1.0, LARGEST_COST / np.abs(values).max())
    rows.add(columns.tolist(), (values * scale).tolist(), low * scale, high * scale)
    return True
