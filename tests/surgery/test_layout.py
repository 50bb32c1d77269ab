"""Layouts: tiling, short forms, and ratios turned into layers."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.architecture.layout import PLACEMENTS, layout_from_ratio, shorten, shortest_period, tile

RATIOS = st.dictionaries(st.sampled_from("FGSK"), st.integers(0, 6), min_size=1).filter(
    lambda r: any(r.values())
)


def gaps(layout: str, letter: str) -> list[int]:
    """Distances from each position of a letter to the next, around the end."""
    positions = [index for index, item in enumerate(layout) if item == letter]
    return [
        (b - a) % len(layout) or len(layout)
        for a, b in zip(positions, [*positions[1:], positions[0]], strict=True)
    ]


def most_even(counts: dict[str, int]) -> set[tuple[int, ...]]:
    """Sorted gaps of the first letter over every layout with these counts: the flattest, by brute force."""
    first = next(iter(counts))
    letters = "".join(letter * count for letter, count in counts.items())
    spreads = {tuple(sorted(gaps("".join(word), first))) for word in set(itertools.permutations(letters))}
    flattest = min(max(spread) - min(spread) for spread in spreads)
    return {spread for spread in spreads if max(spread) - min(spread) == flattest}


@pytest.mark.parametrize(
    ("layout", "depth", "tiled"),
    [("F", 3, "FFF"), ("GGF", 5, "GGFGG"), ("GGGGF", 5, "GGGGF"), ("GF", 1, "G")],
)
def test_tile(layout: str, depth: int, tiled: str) -> None:
    assert tile(layout, depth) == tiled


@pytest.mark.parametrize(
    ("layout", "short"),
    [
        ("FFFF", "FFFF"),
        ("F" * 12, "F" * 12),
        ("F" * 30, "F×30"),
        ("GGGF" * 6, "GGGF×6"),
        ("GGGGF" * 5 + "G", None),
    ],
)
def test_shorten(layout: str, short: str | None) -> None:
    assert shorten(layout) == (short or layout)


@pytest.mark.parametrize(
    ("ratio", "placement", "depth", "layout"),
    [
        ({"F": 1, "G": 4}, "interleave", 25, "GGGGF" * 5),  # LT2's 4:1
        ({"F": 1, "G": 4}, "bookend", 10, "FGGGGGGGGF"),
        ({"F": 1, "G": 4}, "front", 10, "FFGGGGGGGG"),
        ({"F": 1, "G": 4}, "back", 10, "GGGGGGGGFF"),
        ({"F": 2, "G": 8}, "interleave", 10, "GGGGF" * 2),  # reduced first
        ({"F": 1, "G": 4}, "interleave", 4, "GGGF"),  # a stack shorter than the period still has its F
        ({"F": 1, "G": 4}, "bookend", 25, "FF" + "G" * 21 + "FF"),  # a share of 5: 2 + 2
        ({"F": 1, "G": 4}, "bookend", 5, "FGGGF"),  # a share of 1: 1 + 1
        ({"F": 1, "G": 4}, "bookend", 15, "F" + "G" * 13 + "F"),  # a share of 3: 1 + 1
        ({"F": 1, "G": 4}, "bookend", 20, "FF" + "G" * 16 + "FF"),
        ({"F": 1, "G": 4}, "bookend", 16, "FF" + "G" * 12 + "FF"),  # a share of 3.2 is nearer to 4 than to 2
        ({"F": 1, "G": 4}, "bookend", 35, "FFF" + "G" * 29 + "FFF"),  # a share of 7: 3 + 3
        ({"F": 1, "G": 1}, "bookend", 6, "FGGGGF"),  # a share of 3
        ({"F": 1, "G": 1}, "bookend", 7, "FFGGGFF"),  # a share of 3.5
        ({"G": 4, "F": 1}, "bookend", 5, "GGFGG"),
        ({"F": 1, "G": 9}, "bookend", 4, "FGGF"),
        ({"F": 9, "G": 1}, "bookend", 4, "FGGF"),  # neither side vanishes
        ({"F": 9, "G": 1}, "bookend", 5, "FFGFF"),
        ({"F": 1, "G": 1}, "bookend", 3, "FGF"),
        ({"F": 1, "G": 1}, "bookend", 2, "FG"),  # no room for two
        ({"F": 1, "G": 1}, "bookend", 1, "F"),
        ({"F": 1, "G": 1, "S": 1}, "bookend", 1, "F"),
        ({"F": 1, "G": 1, "S": 1}, "bookend", 3, "FSG"),
        ({"F": 1, "G": 1, "S": 1}, "bookend", 4, "FSGF"),
        ({"F": 9, "G": 1}, "front", 4, "FFFG"),
        ({"F": 0, "G": 1}, "bookend", 3, "GGG"),
        ({"F": 3, "G": 0}, "back", 2, "FF"),
        ({"F": 1, "G": 1}, "interleave", 4, "GFGF"),
        ({"F": 1, "G": 2, "S": 1}, "interleave", 8, "GSGFGSGF"),
        ({"F": 1, "G": 2, "S": 1}, "bookend", 8, "FGSGGSGF"),
        ({"F": 1, "G": 1}, "front", 1, "F"),
    ],
)  # fmt: skip
def test_known_layouts(ratio: dict[str, int], placement: str, depth: int, layout: str) -> None:
    assert layout_from_ratio(ratio, placement, depth) == layout


@pytest.mark.parametrize(("first", "second"), list(itertools.product(range(1, 5), range(1, 5))))
def test_two_mixers_are_spread_as_evenly_as_can_be(first: int, second: int) -> None:
    layout = layout_from_ratio({"F": first, "G": second}, "interleave", first + second)
    assert sorted(layout) == ["F"] * first + ["G"] * second
    for letter, counts in (("F", {"F": first, "G": second}), ("G", {"G": second, "F": first})):
        assert tuple(sorted(gaps(layout, letter))) in most_even(counts)


@given(st.text("FG", min_size=1, max_size=12), st.integers(1, 40))
def test_the_shortest_period_is_the_shortest(period: str, depth: int) -> None:
    layout = tile(period, depth)
    short = shortest_period(layout)
    assert tile(short, depth) == layout
    assert len(short) <= len(period)
    assert all(tile(layout[:n], depth) != layout for n in range(1, len(short)))
    text, mark, times = shorten(layout).partition("×")
    assert text * int(times) == layout if mark else text == layout


@given(RATIOS, st.sampled_from(PLACEMENTS), st.integers(1, 24))
def test_every_mixer_of_the_ratio_gets_its_share(ratio: dict[str, int], placement: str, depth: int) -> None:
    layout = layout_from_ratio(ratio, placement, depth)
    shares = {letter: share for letter, share in ratio.items() if share}
    assert len(layout) == depth
    assert set(layout) <= set(shares)
    if depth >= sum(shares.values()):
        assert set(layout) == set(shares)
    if depth >= len(shares):
        placed = next(iter(ratio))
        assert placed not in shares or placed in layout
    if depth % sum(shares.values()) == 0 and placement != "bookend":
        for letter, share in shares.items():
            assert layout.count(letter) == share * depth // sum(shares.values())


@given(RATIOS, st.integers(1, 24))
def test_where_the_first_mixer_is_placed(ratio: dict[str, int], depth: int) -> None:
    placed = next(iter(ratio))
    if not ratio[placed] or sum(map(bool, ratio.values())) == 1:
        return
    front, back = (layout_from_ratio(ratio, name, depth) for name in ("front", "back"))
    count = front.count(placed)
    assert front[:count] == back[depth - count :] == placed * count
    assert back.count(placed) == count


@given(RATIOS, st.integers(1, 40))
def test_bookends_match(ratio: dict[str, int], depth: int) -> None:
    placed, others = next(iter(ratio)), sum(map(bool, ratio.values())) - 1
    if not ratio[placed] or not others:
        return
    layout = layout_from_ratio(ratio, "bookend", depth)
    inside = layout.strip(placed)
    ends = len(layout) - len(layout.lstrip(placed)), len(layout) - len(layout.rstrip(placed))
    assert placed not in inside
    if depth < others + 2:  # no room for one at each end and every other mixer
        assert layout == layout_from_ratio(ratio, "front", depth)
        return
    assert ends[0] == ends[1] >= 1
    assert set(inside) == {letter for letter, share in ratio.items() if share and letter != placed}
    # no other even number of layers, of those there is room for, is nearer to the share; of two, the smaller
    share = Fraction(depth * ratio[placed], sum(ratio.values()))
    nearest = min(range(2, depth - others + 1, 2), key=lambda number: (abs(number - share), number))
    assert 2 * ends[0] == nearest


def test_refusals() -> None:
    with pytest.raises(ValueError, match="above 0"):
        layout_from_ratio({"F": 0, "G": 0}, "interleave", 4)
    with pytest.raises(ValueError, match="interleave, bookend, front, back"):
        layout_from_ratio({"F": 1}, "middle", 4)
