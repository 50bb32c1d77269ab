"""Descriptions of plots: panels with points, curves and bands, or heat maps; drawn as pictures or graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

# Distinguishable by people with any colour blindness (Okabe and Ito 2008); shapes differ as well.
GREY, BLUE, ORANGE, BLACK = "#8a8f94", "#0072b2", "#d55e00", "#1f2328"
Values = Sequence[float] | NDArray[Any]
Dash = Literal["solid", "dash", "dot", "dashdot"]
Marker = Literal[
    "dot", "ring", "square", "star", "frame", "up", "down", "right", "left",
    "open up", "open down", "open right", "open left",
]  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """An axis of a panel.

    Attributes:
        label: quantity and unit.
        format: how graphs and pages show its values, in the notation of d3-format.
        ticks: how its values are shown at ticks; the library's way if None.
        log: logarithmic.
        low, high: limits, each from the data if None.
        base: of the number system of its ticks: 10, or 2 for bytes.
        steps: allowed distances of ticks, between 1 and 10, times any power of 10; the library's if empty.
        names: of the values 0, 1, ..., instead of ticks; the first one is at the top of a vertical axis.
    """

    label: str
    format: str = ".4~f"
    ticks: Callable[[float], str] | None = None
    log: bool = False
    low: float | None = None
    high: float | None = None
    base: int = 10
    steps: Sequence[float] = ()
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Series:
    """Points, a curve, or both.

    Attributes:
        name: in the legend, once for all series of this name; not there if empty.
        x, y: (n,) coordinates; NaN in y interrupts the curve.
        colour: as #rrggbb.
        marker: of points: a filled dot or star, an open ring, square or larger frame, or a triangle, filled
            or open, that points to where the true point is, beyond the axis; None for a curve without points.
        size: diameter of the markers in points (1/72 inch).
        curve: connection of the points: straight lines, or steps after or before each; None for points only.
        dash: of the curve.
        band: (lower, upper) edges (n,) of a band around the curve.
        x_error, y_error: (below, above), lengths (n,) of error bars; NaN for none.
        labels: (n,) texts next to the points, empty for none; left out where there is no room, the last
            series' last.
        hover: (n,) text that a page shows at a point.
    """

    name: str
    x: Values
    y: Values
    colour: str
    marker: Marker | None = None
    size: float = 6.0
    curve: Literal["straight", "after", "before"] | None = None
    dash: Dash = "solid"
    band: tuple[Values, Values] | None = None
    x_error: tuple[Values, Values] | None = None
    y_error: tuple[Values, Values] | None = None
    labels: Sequence[str] = ()
    hover: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """A pair of axes with series, the last on top."""

    x: Axis
    y: Axis
    series: Sequence[Series]


@dataclass(frozen=True)
class HeatMap:
    """A panel whose cells have colours from light to dark, by the logarithm of their values.

    Attributes:
        title: above the panel.
        rows, columns: names, of the rows from the top.
        values: (rows, columns) positive numbers; NaN: an empty cell.
        texts: (rows, columns), in the cells.
        hover: (rows, columns), what a page shows at a cell.
        label: quantity and unit of the values; without one there is no colour bar.
        low, high: values of the first and the last colour; lower and higher ones have these, too.
        caption: what signs in the cells mean, a line each, below the map.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    texts: Sequence[Sequence[str]]
    hover: Sequence[Sequence[str]]
    label: str
    low: float
    high: float
    caption: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """Panels under a title, each `width` by `height` inches as a picture, at most `columns` side by side.

    The defaults fit two panels into the text width of a paper, with letters of 7 to 8 points.
    """

    title: str
    panels: Sequence[Panel | HeatMap]
    width: float = 3.4
    height: float = 2.7
    columns: int = 2
