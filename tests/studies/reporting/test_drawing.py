"""A figure is drawn with the same points, curves, bars, bands and labels as a picture and as a graph."""

from __future__ import annotations

import re
from math import inf, log10, nan
from pathlib import Path

import numpy as np
import pytest

from studies.reporting.drawing import check_plot_path, draw
from studies.reporting.figure import BLUE, GREY, ORANGE, Axis, Figure, HeatMap, Panel, Series
from studies.reporting.graph import graph
from studies.reporting.page import page
from studies.reporting.picture import picture
from surgery.config.problems import UserError
from surgery.files.outputs import MARK

X, Y = [1.0, 10.0, 100.0], [3.0, 2.0, 1.5]
CURVE = Series(
    "a", np.array(X), np.array([3.0, 2.0, nan]), BLUE, curve="after", dash="dot",
    band=(np.array([2.5, 1.5, nan]), np.array([3.5, 2.5, nan])), hover=["p", "q", "r"],
)  # fmt: skip
POINTS = Series(
    "b", X, Y, GREY, "dot", x_error=([0.5, nan, 2.0], [1.0, nan, 3.0]), y_error=([0.1, nan, 0.2],) * 2
)
LABELLED = Series("c", X[:1], Y[:1], ORANGE, "square", labels=["first"])
UNNAMED = Series("", X, Y, BLUE, curve="before")
COUNTS = Axis("tokens", ".4~s", ticks=lambda value: f"{value:g} tokens", log=True)
LOSS = Axis("loss", low=0, high=4)
FIGURE = Figure(
    "two panels", [Panel(COUNTS, LOSS, [CURVE, POINTS, LABELLED, UNNAMED]), Panel(LOSS, LOSS, [POINTS])]
)


def test_the_picture() -> None:
    drawn = picture(FIGURE)
    first, second = drawn.axes
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    assert (first.get_xscale(), first.get_ylim()) == ("log", (0, 4))
    assert first.xaxis.get_major_formatter()(10) == "10 tokens"
    curve, points, labelled = (line for line in first.lines if line.get_label() in ("a", "b", "c"))
    assert (curve.get_linestyle(), curve.get_drawstyle()) == (":", "steps-post")
    assert (points.get_linestyle(), points.get_marker()) == ("None", "o")
    assert labelled.get_markerfacecolor() == "none"
    assert first.lines[-1].get_drawstyle() == "steps-pre"
    assert second.get_ylabel() == "loss"
    assert [text.get_text() for text in first.texts] == ["first"]


def test_the_graph() -> None:
    drawn = graph(FIGURE)
    band, curve, points, labelled, unnamed, again = drawn.data
    assert list(band.x) == [1, 10, 10, 1]  # closed, without the gap
    assert list(band.y) == [2.5, 1.5, 2.5, 3.5]
    assert (curve.line.shape, curve.line.dash, curve.mode) == ("hv", "dot", "lines")
    assert curve.hovertemplate.startswith("%{hovertext}")
    assert points.hovertemplate.startswith("%{x:.4~s}")
    assert points.error_x.array[::2] == (1.0, 3.0)
    assert points.error_x.arrayminus[::2] == (0.5, 2.0)
    assert labelled.mode == "markers"
    assert [label.text for label in drawn.layout.annotations] == ["first"]
    assert labelled.marker.symbol == "square-open"
    assert [trace.showlegend for trace in drawn.data] == [False, True, True, True, False, False]
    assert (unnamed.line.shape, again.xaxis) == ("vh", "x2")
    assert (drawn.layout.xaxis.type, drawn.layout.yaxis.range) == ("log", (0, 4))
    limited = Panel(Axis("tokens", log=True, low=10, high=inf), LOSS, [POINTS])
    assert graph(Figure("", [limited])).layout.xaxis.range[0] == log10(10)


def test_the_legend_takes_the_place_of_a_missing_panel() -> None:
    panel = FIGURE.panels[0]
    drawn = picture(Figure("three", [panel, panel, panel]))
    assert not drawn.legends
    names = [text.get_text() for text in drawn.axes[-1].get_legend().get_texts()]
    assert names == ["a", "b", "c"]


def test_the_page_has_the_picture_and_the_text_of_every_point() -> None:
    figure = Figure(
        "one", [Panel(LOSS, LOSS, [Series("a", [1.0, 2.0], [1.0, nan], BLUE, "dot", hover=["<p>", "q"])])]
    )
    text = page(figure)
    assert text.count("<svg") == 1
    assert "&lt;p&gt;" in text
    assert '"q"' not in text  # there is no such point
    assert "http" not in re.sub(
        r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>|<!DOCTYPE[^>]*>', "", text, flags=re.S
    )
    assert len(text) < 1_000_000
    assert "layer" in page(Figure("maps", [HEAT_WITH_TEXT]))


def test_markers_differ_in_shape() -> None:
    shapes = ["dot", "ring", "square", "star", "frame", "up", "down", "right", "left"]
    shapes += [f"open {shape}" for shape in ("up", "down", "right", "left")]
    series = [Series(name, [1.0], [1.0], GREY, name) for name in shapes]  # type: ignore[arg-type]
    figure = Figure("markers", [Panel(LOSS, LOSS, series)])
    lines = picture(figure).axes[0].lines
    assert len({(line.get_marker(), line.get_markerfacecolor()) for line in lines}) == len(shapes)
    assert len({trace.marker.symbol for trace in graph(figure).data}) == len(shapes)


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

HEAT_WITH_TEXT = HeatMap("one", ["a"], ["p"], [[0.1]], [["x"]], [["layer 0"]], "KL", low=1e-3, high=1.0)


def test_heat_maps_are_clipped_to_the_colours_and_share_one_bar() -> None:
    first, second, bar = picture(Figure("maps", [HEAT, HEAT])).axes
    assert bar.get_ylabel() == "KL"
    assert first.collections[0].get_array().tolist() == [[1e-3, 0.01, None], [0.1, 1.0, 1.0]]
    assert first.get_ylim()[0] > first.get_ylim()[1], "the first row is on top"
    assert [text.get_text() for text in second.texts] == ["x", "y", "", "z", "u", "v"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]

    left, right = graph(Figure("maps", [HEAT, HEAT])).data
    assert np.array(left.z)[1].tolist() == pytest.approx([-1, 0, 0])
    assert np.isnan(np.array(left.z)[0, 2])
    assert (left.showscale, right.showscale) == (False, True)
    assert (left.zmin, left.zmax) == (-3, 0)
    assert right.colorbar.ticktext == ("0.001", "0.01", "0.1", "1")
