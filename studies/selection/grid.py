"""A grid of budgets for the costs, and the predicted front over what was selected for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from studies.selection.interactions import SecondOrder
from studies.selection.local_search import local_search
from studies.selection.problem import Choice, Limits, Selection, Solution
from studies.selection.solve import solve
from studies.stats.pareto import undominated


def budgets(
    selection: Selection, metrics: Sequence[str], count: int, limits: Limits | None = None
) -> list[dict[str, tuple[float | None, float | None]]]:
    """Return `count` sets of limits for the metrics, in addition to the given ones.

    A metric's budgets are evenly spaced between the lowest cost that any choice has in it and the model's
    own, without both ends, whose best choices need no search. Of several metrics, half of the budgets limit
    one each, in equal numbers. The others limit all: where one budget is tight, others may be loose, so that
    the shares are spread evenly over all combinations (the R sequence of Roberts 2018, a Kronecker lattice).
    Some combinations may be beyond every choice.

    Args:
        limits: that hold everywhere; a budget lies between them, too.
    """
    assert metrics
    assert count >= 1
    fixed = dict(limits or {})
    alone = count if len(metrics) == 1 else -(-count // 2)
    share = [len(range(index, alone, len(metrics))) for index in range(len(metrics))]
    result = [
        {**fixed, metric: _budget(selection, metric, fixed, step / (steps + 1))}
        for metric, steps in zip(metrics, share, strict=True)
        for step in range(1, steps + 1)
    ]
    for point in itertools.islice(_spread(len(metrics)), count - alone):
        joint = zip(metrics, point, strict=True)
        result.append({**fixed, **{metric: _budget(selection, metric, fixed, at) for metric, at in joint}})
    return result


def _budget(
    selection: Selection, metric: str, limits: Limits, share: float
) -> tuple[float | None, float | None]:
    """Return limits whose upper end is this share of the way from the cheapest to the model itself."""
    low, high = limits.get(metric, (None, None))
    least = max(selection.cheapest(metric), -np.inf if low is None else low)
    most = min(selection.base[metric], np.inf if high is None else high)
    return low, float(np.floor(least + share * (most - least)))


def _spread(dimensions: int) -> Iterator[list[float]]:
    """Yield points that fill the unit cube evenly: multiples of powers of a generalised golden ratio."""
    ratio = 2.0
    for _ in range(60):  # x^(d+1) = x + 1
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    for number in itertools.count(1):
        yield [(0.5 + number * ratio ** -(axis + 1)) % 1 for axis in range(dimensions)]


def sweep(
    selection: Selection,
    grid: Iterable[Limits],
    *,
    pool: int = 1,
    distance: int = 1,
    gap: float = 0.0,
    nodes: int | None = None,
    model: SecondOrder | None = None,
) -> list[Solution]:
    """Return the solutions of all budgets, each choice once, by rising score.

    Budgets that no choice keeps add nothing. Other arguments are those of `solve`. On one core 16 budgets
    with a pool of 4 over 60 parts of 8 to 12 options take 3 to 7 s, with a model 7 to 12 s. 50 pairs in the
    selection add little to that, but 200 take up to 50 s even with a gap of 1e-3: prefer a model there.

    Args:
        model: of all pairs; each solution is improved by a local search under it, and has its prediction as
            the score. Solutions of a budget may then be nearer to each other than `distance`.
    """
    result: dict[Choice, Solution] = {}
    for limits in grid:
        for solution in solve(selection, limits, pool=pool, distance=distance, gap=gap, nodes=nodes):
            final = local_search(model, solution.choice, limits) if model else solution
            result.setdefault(final.choice, final)
    return sorted(result.values(), key=lambda solution: (solution.score, solution.choice))


def predicted_front(solutions: Sequence[Solution], metrics: Sequence[str]) -> list[Solution]:
    """Return the solutions that none dominates in score and the metrics' costs, by rising score."""
    if not solutions:
        return []
    table = [[item.score, *(item.costs[metric] for metric in metrics)] for item in solutions]
    return [solutions[index] for index in undominated(np.array(table, dtype=np.float64))]
