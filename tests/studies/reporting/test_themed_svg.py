"""Pictures on pages: their own colours in light and in dark mode, none of a fixed background."""

from __future__ import annotations

import re

from studies.reporting.figure import BLACK, BLUE, GREY, ORANGE, Axis, Figure, Panel, Series
from studies.reporting.page import page
from studies.reporting.picture import picture
from studies.reporting.themed_svg import STYLE, themed_svg

COLOURS = {"blue": BLUE, "orange": ORANGE, "grey": GREY, "ink": BLACK}
FIGURE = Figure(
    "a title that is a good deal longer than the picture is wide, and then has some more words",
    [
        Panel(
            Axis("x"),
            Axis("y"),
            [
                Series(f"a long name in the legend: {name}", [1.0], [number], colour, "dot", labels=["a"])
                for number, (name, colour) in enumerate(COLOURS.items())
            ],
        )
    ],
)  # fmt: skip


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1) of #rrggbb or #rgb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_colour_follows_the_page() -> None:
    svg = themed_svg(picture(FIGURE, clear=True))
    for name in COLOURS:
        assert f"var(--{name}, #" in svg
    assert not re.search(r"(?<!, )#(000000|0072b2|d55e00|1f2328)", svg)
    assert 'style="fill: #ffffff' not in svg, "no white background"
    assert "prefers-color-scheme: dark" in page(FIGURE)


def test_colours_can_be_read_on_both_backgrounds() -> None:
    light, dark = STYLE.split("@media", 1)
    for part in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", part))
        paper = luminance(colours["paper"])
        for name in (*COLOURS, "link"):
            other = luminance(colours[name])
            contrast = (max(paper, other) + 0.05) / (min(paper, other) + 0.05)
            assert contrast >= (3 if name in ("orange", "grey") else 4.5), (name, contrast)


def test_titles_and_legends_are_inside_the_picture() -> None:
    drawn = picture(FIGURE)
    renderer = drawn.canvas.get_renderer()
    texts = [drawn._suptitle, *drawn.legends]
    assert all(text is not None for text in texts)
    for item in texts:
        box = item.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.x1 <= drawn.bbox.width
    assert picture(FIGURE, title=False)._suptitle is None
