"""Figures as plotly's graph objects, for Optuna Dashboard: the same points, curves, bars and labels."""

from __future__ import annotations

from itertools import chain
from math import ceil
from typing import Any

import numpy as np

from studies.reporting.figure import BLACK, BLUE, GREY, Axis, Figure, HeatMap, Panel, Series, Values
from studies.reporting.heat_map import heat_map_trace
from studies.reporting.labels import LEADER_FROM, place_labels
from studies.reporting.picture import soft_obstacles
from studies.reporting.ticks import binary_ticks

_BAND_OPACITY = 0.15
_MARKERS = {
    "dot": "circle", "ring": "circle-open", "square": "square-open", "star": "star", "frame": "diamond-open",
    "up": "triangle-up", "down": "triangle-down", "right": "triangle-right", "left": "triangle-left",
    "open up": "triangle-up-open", "open down": "triangle-down-open", "open right": "triangle-right-open",
    "open left": "triangle-left-open", None: None,
}  # fmt: skip
_STEPS = {"straight": "linear", "after": "hv", "before": "vh"}
_INK, _GRID = "#808890", "rgba(128,136,144,0.25)"  # readable on a light and on a dark page
_COLOURS = {BLUE: "#2b8cc4", BLACK: "#cc79a7"}  # those of pictures that can't be seen on a dark page
_PAPER = "#ffffff"  # behind heat maps, whose letters are black
_WIDTH, _HEIGHT = (
    500,
    260,
)  # pixels of a panel's axes, on which labels are placed: as the dashboard shows them
_LETTER, _LINE = 6.6, 13  # pixels of a letter and of a line of a label
_DIGITS = 6  # significant digits, so that stored graphs stay small


def graph(figure: Figure) -> Any:
    """Return the plotly figure; its background is clear, and its text grey, for light and dark pages.

    It has the size of its frame, so that one with several panels needs a large one.
    """
    from plotly.subplots import make_subplots

    columns = min(figure.columns, len(figure.panels))
    rows = ceil(len(figure.panels) / columns)
    titles = [panel.title if isinstance(panel, HeatMap) else "" for panel in figure.panels]
    drawn = make_subplots(
        rows=rows, cols=columns, subplot_titles=titles if any(titles) else None,
        horizontal_spacing=0.12 / columns, vertical_spacing=0.2 / rows,
    )  # fmt: skip
    named: set[str] = set()
    for number, panel in enumerate(figure.panels):
        where = {"row": number // columns + 1, "col": number % columns + 1}
        if isinstance(panel, HeatMap):
            drawn.add_trace(heat_map_trace(panel, last=number + 1 == len(figure.panels)), **where)
            drawn.update_yaxes(autorange="reversed", type="category", showgrid=False, **where)
            drawn.update_xaxes(
                type="category", showgrid=False,
                title={"text": "<br>".join(panel.caption), "font": {"size": 11}}, **where,
            )  # fmt: skip
            continue
        for trace in chain.from_iterable(_traces(panel, item) for item in panel.series):
            trace.showlegend = bool(trace.name) and trace.name not in named
            named.add(trace.name)
            drawn.add_trace(trace, **where)
        drawn.update_xaxes(_axis(panel, panel.x, is_x=True), **where)
        drawn.update_yaxes(_axis(panel, panel.y, is_x=False), **where)
        for label in _labels(panel):
            drawn.add_annotation(label, **where)
    maps = any(isinstance(panel, HeatMap) for panel in figure.panels)
    drawn.update_xaxes(gridcolor=_GRID, linecolor=_INK, zeroline=False, automargin=True)
    drawn.update_yaxes(gridcolor=_GRID, linecolor=_INK, zeroline=False, automargin=True)
    drawn.update_layout(
        title={
            "text": figure.title, "font": {"size": 14}, "x": 0, "xref": "paper", "xanchor": "left", "y": 1,
            "yref": "paper", "yanchor": "bottom", "pad": {"b": 10},
        },
        template="none", font={"color": _INK, "size": 12}, autosize=True,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _INK},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor=_PAPER if maps else "rgba(0,0,0,0)",
        legend={"orientation": "h", "y": -0.2 / rows, "yanchor": "top"}, hovermode="closest",
        margin={"l": 60, "r": 30, "t": 75, "b": 50},
    )  # fmt: skip
    return drawn


def _traces(panel: Panel, series: Series) -> list[Any]:
    import plotly.graph_objects as go

    traces = []
    colour = _COLOURS.get(series.colour, series.colour)
    x, y = _short(series.x), _short(series.y)
    if series.band is not None:
        low, high = (np.asarray(edge, dtype=float) for edge in series.band)
        known = ~np.isnan(low)  # a gap would break the outline of the band
        along_x, low, high = np.asarray(series.x, dtype=float)[known], low[known], high[known]
        traces.append(
            go.Scatter(
                x=_short(np.concatenate([along_x, along_x[::-1]])),
                y=_short(np.concatenate([low, high[::-1]])),
                mode="lines", fill="toself", fillcolor=colour, opacity=_BAND_OPACITY,
                line={"width": 0}, hoverinfo="skip", legendgroup=series.name,
            )
        )  # fmt: skip
    modes = {"markers": series.marker, "lines": series.curve}
    values = f"%{{x:{panel.x.format}}} · %{{y:{panel.y.format}}}<extra></extra>"
    traces.append(
        go.Scatter(
            x=x, y=y, name=series.name, legendgroup=series.name,
            mode="+".join(mode for mode, wanted in modes.items() if wanted), cliponaxis=not series.marker,
            marker={"color": colour, "symbol": _MARKERS[series.marker], "size": 1.2 * series.size + 3}
            if series.marker else None,
            line={"color": colour, "dash": series.dash, "shape": _STEPS[series.curve]}
            if series.curve else None,
            error_x=_error(series.x_error), error_y=_error(series.y_error),
            hovertext=list(series.hover),
            hovertemplate="%{hovertext}<extra></extra>" if series.hover else values,
        )
    )  # fmt: skip
    return traces


def _short(values: Values) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in np.asarray(values, dtype=float)]


def _error(error: tuple[Values, Values] | None) -> dict[str, Any] | None:
    if error is None:
        return None
    below, above = (_short(part) for part in error)
    return {"type": "data", "array": above, "arrayminus": below, "thickness": 1, "width": 3}


def _limits(panel: Panel, axis: Axis, *, is_x: bool) -> tuple[float, float]:
    """Return the limits of an axis, as logarithms if it is logarithmic, with a margin at the data."""
    parts = []
    for series in panel.series:
        values = np.asarray(series.x if is_x else series.y, dtype=float)
        parts.append(values)
        if (error := series.x_error if is_x else series.y_error) is not None:
            below, above = (np.nan_to_num(np.asarray(part, dtype=float)) for part in error)
            parts += [values - below, values + above]
        if series.band is not None and not is_x:
            parts += [np.asarray(edge, dtype=float) for edge in series.band]
    every = np.concatenate([np.empty(0), *parts])
    every = every[np.isfinite(every) & ((every > 0) | (not axis.log))]
    low, high = (float(every.min()), float(every.max())) if len(every) else (1.0, 10.0)
    if axis.log:
        low, high = float(np.log10(low)), float(np.log10(high))
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    given: list[float | None] = []
    for limit in (axis.low, axis.high):
        if limit is None or not np.isfinite(limit):
            given.append(None)
            continue
        (limit,) = _short([limit])  # as points at it: those a hair beyond are not drawn
        given.append(float(np.log10(limit)) if axis.log else limit)
    return (
        low - margin if given[0] is None else given[0],
        high + margin if given[1] is None else given[1],
    )


def _axis(panel: Panel, axis: Axis, *, is_x: bool) -> dict[str, Any]:
    form: dict[str, Any] = {
        "title": {"text": axis.label}, "tickformat": axis.format, "range": _limits(panel, axis, is_x=is_x),
        "nticks": 6, "showline": True,
    }  # fmt: skip
    if axis.names:
        last = len(axis.names) - 0.5
        form |= {
            "tickvals": list(range(len(axis.names))), "ticktext": list(axis.names),
            "range": [-0.5, last] if is_x else [last, -0.5],
        }  # fmt: skip
        return form
    if axis.base == 2 and axis.ticks is not None:
        low, high = (10**limit if axis.log else limit for limit in form["range"])
        form["tickvals"] = binary_ticks(low, high, log=axis.log)
        form["ticktext"] = [axis.ticks(value) for value in form["tickvals"]]
    if axis.log:
        form["type"] = "log"
    if axis.log and axis.base == 10:
        form["dtick"] = "D2"  # labels at 1, 2 and 5 times a power of ten
        if form["range"][1] - form["range"][0] > 1.5:
            form["dtick"] = 1
    return form


def _labels(panel: Panel) -> list[dict[str, Any]]:
    """Return the labels as annotations, at offsets where they overlap nothing."""
    x_limits, y_limits = _limits(panel, panel.x, is_x=True), _limits(panel, panel.y, is_x=False)

    def at(x: Any, y: Any) -> Any:
        """Pixels from the lower left corner of the axes."""
        columns = []
        for values, axis, (low, high), size in (
            (x, panel.x, x_limits, _WIDTH), (y, panel.y, y_limits, _HEIGHT),
        ):  # fmt: skip
            array = np.asarray(values, dtype=float)
            array = np.log10(np.maximum(array, 1e-300)) if axis.log else array
            columns.append((array - low) / (high - low) * size)
        return np.column_stack(columns)

    chosen = [
        (text, series.x[index], series.y[index], _COLOURS.get(series.colour, series.colour))
        for series in panel.series
        for index, text in enumerate(series.labels)
        if text
    ]
    if not chosen:
        return []
    texts, x, y, colours = zip(*chosen, strict=True)
    sizes = np.array([(_LETTER * len(text), _LINE) for text in texts], dtype=float)
    marked = [series for series in panel.series if series.marker and series.colour != GREY]
    points = np.concatenate([np.empty((0, 2)), *(at(series.x, series.y) for series in marked)])
    radii = np.concatenate([np.empty(0), *(np.full(len(series.x), series.size / 2 + 2) for series in marked)])
    curves = soft_obstacles(panel, at)
    offsets = place_labels(at(x, y), sizes, points, radii, curves, (_WIDTH, _HEIGHT))
    annotations = []
    for index, offset in enumerate(offsets):
        if offset is None:
            continue
        away = np.hypot(*np.maximum(np.abs(offset) - sizes[index] / 2, 0))
        label: dict[str, Any] = {
            "x": float(np.log10(x[index])) if panel.x.log else float(x[index]),
            "y": float(np.log10(y[index])) if panel.y.log else float(y[index]),
            "text": texts[index], "font": {"color": colours[index], "size": 11},
        }  # fmt: skip
        if away > 2 * LEADER_FROM:  # these are pixels
            label |= {
                "ax": round(offset[0], 1), "ay": round(-offset[1], 1), "showarrow": True, "arrowhead": 0,
                "arrowwidth": 0.6, "arrowcolor": colours[index], "standoff": 4,
            }  # fmt: skip
        else:
            label |= {"showarrow": False, "xshift": round(offset[0], 1), "yshift": round(offset[1], 1)}
        annotations.append(label)
    return annotations
