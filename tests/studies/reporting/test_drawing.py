"""A figure is drawn with the same points, curves, bars and bands as a picture and as a page."""

from __future__ import annotations

from math import inf, log10, nan
from pathlib import Path

import numpy as np
import pytest

from studies.reporting.drawing import check_plot_path, draw, page, picture
from studies.reporting.figure import GREEN, GREY, PURPLE, Axis, Figure, HeatMap, Panel, Series
from surgery.config.problems import UserError
from surgery.files.outputs import MARK

X, Y = [1.0, 10.0, 100.0], [3.0, 2.0, 1.5]
CURVE = Series(
    "a", np.array(X), np.array([3.0, 2.0, nan]), GREEN, curve="after", dash="dot",
    band=(np.array([2.5, 1.5, nan]), np.array([3.5, 2.5, nan])), hover=["p", "q", "r"],
)  # fmt: skip
POINTS = Series(
    "b", X, Y, GREY, "dot", x_error=([1.0, nan, 2.0], [1.0, nan, 3.0]), y_error=([0.1, nan, 0.2],) * 2
)
LABELLED = Series("c", X[:1], Y[:1], PURPLE, "square", labels=["first"])
UNNAMED = Series("", X, Y, GREEN, curve="before")
COUNTS = Axis("tokens", ".4~s", ticks=lambda value: f"{value:g} tokens", log=True)
LOSS = Axis("loss", low=0, high=4)
FIGURE = Figure(
    "two panels", [Panel(COUNTS, LOSS, [CURVE, POINTS, LABELLED, UNNAMED]), Panel(LOSS, LOSS, [POINTS])]
)


def test_the_picture() -> None:
    first, second = picture(FIGURE).axes
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["a", "b", "c"]
    assert second.get_legend() is None
    assert (first.get_xscale(), first.get_ylim()) == ("log", (0, 4))
    assert first.xaxis.get_major_formatter()(10) == "10 tokens"
    curve, points, labelled = (line for line in first.lines if line.get_label() in ("a", "b", "c"))
    assert (curve.get_linestyle(), curve.get_drawstyle()) == (":", "steps-post")
    assert (points.get_linestyle(), points.get_marker()) == ("None", "o")
    assert labelled.get_markerfacecolor() == "none"
    assert first.lines[-1].get_drawstyle() == "steps-pre"
    assert [text.get_text() for text in first.texts] == ["first"]


def test_the_page() -> None:
    drawn = page(FIGURE)
    band, curve, points, labelled, unnamed, again = drawn.data
    assert list(band.x) == [1, 10, 10, 1]  # closed, without the gap
    assert list(band.y) == [2.5, 1.5, 2.5, 3.5]
    assert (curve.line.shape, curve.line.dash, curve.mode) == ("hv", "dot", "lines")
    assert curve.hovertemplate.startswith("%{hovertext}<br>%{x:.4~s}")
    assert points.error_x.array[::2] == (1.0, 3.0)
    assert points.error_x.arrayminus[::2] == (1.0, 2.0)
    assert (labelled.mode, labelled.text) == ("markers+text", ("first",))
    assert labelled.marker.symbol == "square-open"
    assert [trace.showlegend for trace in drawn.data] == [False, True, True, True, False, False]
    assert (unnamed.line.shape, again.xaxis) == ("vh", "x2")
    assert (drawn.layout.xaxis.type, drawn.layout.yaxis.range) == ("log", (0, 4))
    limited = Panel(Axis("tokens", log=True, low=10, high=inf), LOSS, [POINTS])
    assert page(Figure("", [limited])).layout.xaxis.range[0] == log10(10)


@pytest.mark.parametrize(
    ("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<!doctype")]
)
def test_a_file_bears_the_mark_and_may_be_replaced(tmp_path: Path, ending: str, start: bytes) -> None:
    path = tmp_path / f"a.{ending}"
    for _ in range(2):
        draw(FIGURE, path)
    content = path.read_bytes()
    assert content.startswith(start)
    assert MARK.encode() in content
    path.write_text("of the user")
    with pytest.raises(UserError, match="left as it is"):
        draw(FIGURE, path)


@pytest.mark.parametrize(("name", "rule"), [("a.bmp", ".png, .svg"), ("no/a.png", "does not exist")])
def test_what_cannot_be_drawn(tmp_path: Path, name: str, rule: str) -> None:
    with pytest.raises(UserError) as caught:
        check_plot_path(tmp_path / name)
    assert rule in str(caught.value)


HEAT = HeatMap(
    "heat", ["a", "b"], ["p", "q", "r"], [[1e-5, 0.01, nan], [0.1, 1.0, 10.0]],
    [["x", "y", ""], ["z", "u", "v"]], [["one"] * 3] * 2, "KL", low=1e-3, high=1.0,
)  # fmt: skip


def test_heat_maps_are_clipped_to_the_colours_and_share_one_bar() -> None:
    first, second, bar = picture(Figure("maps", [HEAT, HEAT])).axes
    assert bar.get_ylabel() == "KL"
    assert first.images[0].get_array().tolist() == [[1e-3, 0.01, None], [0.1, 1.0, 1.0]]
    assert [text.get_text() for text in second.texts] == ["x", "y", "", "z", "u", "v"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]

    left, right = page(Figure("maps", [HEAT, HEAT])).data
    assert np.array(left.z)[1].tolist() == pytest.approx([-1, 0, 0])
    assert np.isnan(np.array(left.z)[0, 2])
    assert (left.showscale, right.showscale) == (False, True)
    assert (left.zmin, left.zmax) == (-3, 0)
    assert right.colorbar.ticktext == ("0.001", "0.01", "0.1", "1")
