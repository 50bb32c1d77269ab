"""Short texts for ticks, and times in the unit that fits."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import ceil, floor, log2

_ZEROS = re.compile(r"(\.\d*?)0+(?=\D|$)")
# upper limit in seconds, name, seconds of the unit, and distances of ticks that people count in
_TIMES: tuple[tuple[float, str, int, tuple[float, ...]], ...] = (
    (180, "seconds", 1, (1, 2, 3, 6, 10)),
    (3 * 3600, "minutes", 60, (1, 2, 3, 5, 10)),
    (4 * 86400, "hours", 3600, (1, 2, 3, 4, 6, 10)),
    (float("inf"), "days", 86400, (1, 2, 5, 10)),
)


def plain_ticks(form: Callable[[float], str]) -> Callable[[float], str]:
    """Return a formatter without superfluous zeros: `400.0k` as `400k`, and `0.50M` as `0.5M`."""
    return lambda value: _ZEROS.sub(lambda match: match[1].rstrip("."), form(value))


def binary_ticks(low: float, high: float, *, log: bool, most: int = 5) -> list[float]:
    """Return at most `most` ticks from `low` to `high` that are powers of two, or multiples of one.

    Args:
        log: powers, for a logarithmic axis; else multiples.
    """
    if log:
        first, last = ceil(log2(low)), floor(log2(high))
        return [2.0**power for power in range(first, last + 1, max(1, ceil((last - first + 1) / most)))]
    step = 2.0 ** ceil(log2((high - low) / most)) if high > low else 1.0
    return [step * count for count in range(ceil(low / step), floor(high / step) + 1)]


def time_unit(most: float) -> tuple[str, int, tuple[float, ...]]:
    """Return the name of the unit for times up to `most` seconds, its seconds, and distances of ticks."""
    return next((name, unit, steps) for limit, name, unit, steps in _TIMES if most <= limit)
