"""Layouts: which mixer stands in which layer, as a string tiled over the depth (`GGGF`)."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

PLACEMENTS = ("interleave", "bookend", "front", "back")


def tile(layout: str, depth: int) -> str:
    """`GGF` over 5 layers -> `GGFGG`."""
    return (layout * -(-depth // len(layout)))[:depth]


def shorten(layout: str) -> str:
    """A tiled layout as people read it: whole up to 12 layers, `GGGF×6` beyond if it repeats."""
    period = shortest_period(layout)
    if len(layout) <= 12 or len(layout) % len(period):
        return layout
    return f"{period}×{len(layout) // len(period)}" if period != layout else layout


def shortest_period(layout: str) -> str:
    """The shortest string that tiles into this layout: `GGFGG` -> `GGF`."""
    depth = len(layout)
    return next(layout[:n] for n in range(1, depth + 1) if tile(layout[:n], depth) == layout)


def layout_from_ratio(ratio: Mapping[str, int], placement: str, depth: int) -> str:
    """A layout of `depth` layers with mixers in the given ratio (LT2's patterns, papers.md 1.4).

    The first letter of `ratio` is the one placed: `interleave` spreads it evenly, last in each
    period (GGGGF); `bookend` shares its layers between both ends of the stack; `front` and `back`
    put them all at one end. The other letters share the remaining layers, interleaved.

    Raises:
        ValueError: no mixer has a share, or the placement is unknown.
    """
    shares = {letter: share for letter, share in ratio.items() if share > 0}
    if not shares:
        raise ValueError("at least one mixer of the ratio must be above 0")
    if placement not in PLACEMENTS:
        raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}")
    placed = next(iter(ratio))
    if placed not in shares or len(shares) == 1 or placement == "interleave":
        return _interleave(shares, depth)
    count = round(depth * shares[placed] / sum(shares.values()))
    count = min(max(count, 1), max(depth - 1, 1))  # neither side of the ratio vanishes
    rest = _interleave({key: value for key, value in shares.items() if key != placed}, depth - count)
    if placement == "front":
        return placed * count + rest
    if placement == "back":
        return rest + placed * count
    head = (count + 1) // 2
    return placed * head + rest + placed * (count - head)


def _interleave(shares: Mapping[str, int], depth: int) -> str:
    """The reduced ratio as one period, every mixer spread evenly in it, then tiled."""
    if not depth:
        return ""
    divisor = gcd(*shares.values())
    period = {letter: share // divisor for letter, share in shares.items()}
    if sum(period.values()) > depth:  # the period's head alone could lack a mixer
        period = _fit(shares, depth)
    slots = [
        ((index + 1) / count, -order, letter)
        for order, (letter, count) in enumerate(period.items())
        for index in range(count)
    ]
    return tile("".join(letter for _, _, letter in sorted(slots)), depth)


def _fit(shares: Mapping[str, int], depth: int) -> dict[str, int]:
    """Layers of each mixer in a stack of `depth`, nearest to the ratio, none left out while there is room."""
    whole = sum(shares.values())
    counts = dict.fromkeys(list(shares)[:depth], 1)
    while sum(counts.values()) < depth:
        behind = max(counts, key=lambda letter: depth * shares[letter] / whole - counts[letter])
        counts[behind] += 1
    return counts
