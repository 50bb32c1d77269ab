"""Student's t for whole degrees of freedom, in closed form (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=1024)
def t_factor(level: float, df: int) -> float:
    """Return t such that |T| < t with probability `level`, for T with `df` degrees of freedom (df >= 1).

    By bisection on the angle atan(t / sqrt(df)), down to the last bits.
    """
    assert 0 < level < 1, level
    assert df >= 1, df
    low, high = 0.0, math.pi / 2
    while True:
        angle = (low + high) / 2
        if angle in (low, high):
            return math.sqrt(df) * math.tan(angle)
        if _inside(angle, df) < level:
            low = angle
        else:
            high = angle


def _inside(angle: float, df: int) -> float:
    """Return P(|T| < sqrt(df) tan(angle))."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = df % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    # 26.7.3: cos + 2/3 cos^3 + 2 4/(3 5) cos^5 ... cos^(df-2); 26.7.4: 1 + 1/2 cos^2 + 1 3/(2 4) cos^4 ...
    for power in range(1 if odd else 0, df - 1, 2):
        total += term
        term *= square * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
