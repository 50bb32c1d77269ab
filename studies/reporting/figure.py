"""Descriptions of plots: panels with points, curves and bands, or heat maps; drawn as pictures or pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

GREY, GREEN, PURPLE = "#9aa0a6", "#15803d", "#7e22ce"
Values = Sequence[float] | NDArray[Any]
Dash = Literal["solid", "dash", "dot", "dashdot"]


@dataclass(frozen=True)
class Axis:
    """An axis of a panel.

    Attributes:
        label: quantity and unit.
        format: how pages show its values, in the notation of d3-format.
        ticks: how pictures show its values; matplotlib's way if None.
        log: logarithmic.
        low, high: limits, each from the data if None.
    """

    label: str
    format: str = ".4~f"
    ticks: Callable[[float], str] | None = None
    log: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points, a curve, or both.

    Attributes:
        name: in the legend, once for all series of this name; not there if empty.
        x, y: (n,) coordinates; NaN in y interrupts the curve.
        colour: as #rrggbb.
        marker: of points, a filled dot or an open square; None for a curve without points.
        size: diameter of the markers in points (1/72 inch).
        curve: connection of the points: straight lines, or steps after or before each; None for points only.
        dash: of the curve.
        band: (lower, upper) edges (n,) of a band around the curve.
        x_error, y_error: (below, above), lengths (n,) of error bars; NaN for none.
        labels: (n,) text next to the points.
        hover: (n,) text that a page shows with the coordinates.
    """

    name: str
    x: Values
    y: Values
    colour: str
    marker: Literal["dot", "square"] | None = None
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
    """A panel whose cells have colours from green to red, by the logarithm of their values.

    Attributes:
        title: above the panel.
        rows, columns: names, of the rows from the top.
        values: (rows, columns) positive numbers; NaN: an empty cell.
        texts: (rows, columns), in the cells.
        hover: (rows, columns), what a page shows at a cell.
        label: quantity and unit of the values.
        low, high: values of the first and the last colour; lower and higher ones have these, too.
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


@dataclass(frozen=True)
class Figure:
    """Panels side by side under a title; each `width` by `height` inches as a picture."""

    title: str
    panels: Sequence[Panel | HeatMap]
    width: float = 5.2
    height: float = 4.4
