"""Counts and byte sizes as users write them: `20M` tokens, `8MiB` of cache."""

from __future__ import annotations

import re
from fractions import Fraction

_COUNT = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_BYTES = {
    "b": 1, "": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_PERCENTAGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_NUMBER = re.compile(r"\s*([+-]?\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)\s*([A-Za-z]*)\s*")


def parse_count(value: object) -> int:
    """Parse `20M` as 20_000_000. Suffixes k, M, B (or G) and T are powers of 1000.

    Raises:
        ValueError: not a whole, non-negative count.
    """
    return _parse(value, _COUNT, "a whole count such as 20000, 500k, 20M or 1.5B")


def parse_bytes(value: object) -> int:
    """Parse `8MiB` as 8_388_608. KiB, MiB, GiB are powers of 1024; KB, MB, GB powers of 1000.

    Raises:
        ValueError: not a whole, non-negative number of bytes.
    """
    return _parse(value, _BYTES, "a size such as 4096, 512KiB, 8MiB or 1.5GB")


def parse_share(value: object) -> float | None:
    """Parse `25%` as 0.25; None if it is not a percentage."""
    match = _PERCENTAGE.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else float(match[1]) / 100


def format_count(value: float) -> str:
    """Format 62531072 as `62.5M`, with at least three digits; below 10,000 as the number itself."""
    for unit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= 0.99995 * unit:  # rounds to 1000.0 of the smaller unit
            digits = 2 if abs(value) < 9.995 * unit else 1
            return f"{value / unit:.{digits}f}{suffix}"
    return f"{value / 1e3:.1f}k" if abs(value) >= 1e4 else f"{value:,.0f}"


def format_bytes(value: float) -> str:
    """Format 8388608 as `8.0 MiB`."""
    for limit, suffix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= (limit if limit == 2**10 else 0.99995 * limit):
            return f"{value / limit:.1f} {suffix}"
    return f"{value:.0f} B"


def _parse(value: object, units: dict[str, int], expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be {expected}")
    match = _NUMBER.fullmatch(str(value))
    if match is None or match[2].lower() not in units:
        raise ValueError(f"must be {expected}")
    number = Fraction(match[1].replace("_", "")) * units[match[2].lower()]  # exact: 62.531072M is whole
    if number.denominator != 1 or not 0 <= number < 2**63:
        raise ValueError(f"must be {expected}")
    return int(number)
