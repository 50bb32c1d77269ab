"""Layouts: the mixer of each layer, as a string of letters tiled over the depth (`GGGF`)."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

PLACEMENTS = ("interleave", "bookend", "front", "back")


def tile(layout: str, depth: int) -> str:
    """Repeat a layout over `depth` layers: `GGF` over 5 layers is `GGFGG`."""
    return (layout * -(-depth // len(layout)))[:depth]


def shorten(layout: str) -> str:
    """Return a tiled layout for display: whole up to 12 layers, else `GGGF×6` if it repeats."""
    period = shortest_period(layout)
    if len(layout) <= 12 or len(layout) % len(period):
        return layout
    return f"{period}×{len(layout) // len(period)}" if period != layout else layout


def shortest_period(layout: str) -> str:
    """Return the shortest string that tiles into this layout: `GGFGG` -> `GGF`."""
    depth = len(layout)
    return next(layout[:n] for n in range(1, depth + 1) if tile(layout[:n], depth) == layout)


def layout_from_ratio(ratio: Mapping[str, int], placement: str, depth: int) -> str:
    """Return a layout of `depth` layers with mixers in the given ratio (docs/papers.md, Hybrid patterns).

    The placement applies to the first letter of `ratio`: `interleave` spreads it evenly, last in each period
    (GGGGF); `front` and `back` put all its layers at one end of the stack; `bookend` puts equally many at
    both ends (FFGGGGGGFF). The other letters share the remaining layers, interleaved.

    `bookend` has k layers at each end, 2 k in total: k is half of the letter's share of the depth, rounded to
    the nearest whole number and halves down, at least 1. So a share of 5 layers becomes 2 + 2, one of 3 or 1
    becomes 1 + 1, and one of 7 becomes 3 + 3. Every other letter keeps a layer as long as that leaves one at
    each end; a stack that is too short for this (two letters in two layers) gets the single layer first, as
    with `front`.

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
    others = {letter: share for letter, share in shares.items() if letter != placed}
    if placement == "bookend":
        each = _each_end(shares[placed], sum(shares.values()), depth, len(others))
        if each:
            return placed * each + _interleave(others, depth - 2 * each) + placed * each
        placement = "front"
    count = round(depth * shares[placed] / sum(shares.values()))
    count = min(max(count, 1), max(depth - 1, 1))  # neither side of the ratio vanishes
    rest = _interleave(others, depth - count)
    return placed * count + rest if placement == "front" else rest + placed * count


def _each_end(share: int, whole: int, depth: int, others: int) -> int:
    """Return the layers at each end of a `bookend` stack: half of `share` / `whole` of the depth.

    Rounded to the nearest whole number, halves down, at least 1. Each of `others` letters keeps a layer; 0 if
    the stack is too short.
    """
    nearest = (depth * share + whole - 1) // (2 * whole)  # ceil(depth * share / (2 * whole) - 1/2)
    return max(0, min(max(nearest, 1), (depth - others) // 2))


def _interleave(shares: Mapping[str, int], depth: int) -> str:
    """Tile one period of the reduced ratio, in which every mixer is spread evenly."""
    if not depth:
        return ""
    divisor = gcd(*shares.values())
    period = {letter: share // divisor for letter, share in shares.items()}
    if sum(period.values()) > depth:  # a truncated period could lack a mixer
        period = _fit(shares, depth)
    slots = [
        ((index + 1) / count, -order, letter)
        for order, (letter, count) in enumerate(period.items())
        for index in range(count)
    ]
    return tile("".join(letter for _, _, letter in sorted(slots)), depth)


def _fit(shares: Mapping[str, int], depth: int) -> dict[str, int]:
    """Return the number of layers of each mixer nearest to the ratio, at least one each if possible."""
    whole = sum(shares.values())
    counts = dict.fromkeys(list(shares)[:depth], 1)
    while sum(counts.values()) < depth:
        neediest = max(counts, key=lambda letter: depth * shares[letter] / whole - counts[letter])
        counts[neediest] += 1
    return counts
