"""A grid of budgets for the costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from studies.selection.problem import Limits, Selection


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
