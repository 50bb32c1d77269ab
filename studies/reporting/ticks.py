"""Short texts for ticks, and times in the unit that fits."""

from __future__ import annotations

import re
from collections.abc import Callable

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


def time_unit(most: float) -> tuple[str, int, tuple[float, ...]]:
    """Return the name of the unit for times up to `most` seconds, its seconds, and distances of ticks."""
    return next((name, unit, steps) for limit, name, unit, steps in _TIMES if most <= limit)
