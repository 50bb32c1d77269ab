"""Drawing of figures: a static picture with matplotlib, or an interactive page with plotly."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from studies.reporting.figure import Axis, Figure, HeatMap, Panel, Series, Values
from studies.reporting.heat_map import add_heat_map, heat_map_trace
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.files.outputs import MARK, check_output, output

PICTURES = (".png", ".svg", ".pdf")
PAGES = (".html",)
_BAND_OPACITY = 0.15
_PICTURE_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_PICTURE_STEPS = {"straight": "default", "after": "steps-post", "before": "steps-pre"}
_PICTURE_MARKERS = {"dot": "o", "square": "s", None: ""}
_PAGE_MARKERS = {"dot": "circle", "square": "square-open", None: None}
_PAGE_STEPS = {"straight": "linear", "after": "hv", "before": "vh"}


def check_plot_path(path: Path) -> None:
    """Check that a plot can be written to `path`.

    Raises:
        UserError: an unknown file format, a missing folder, or an existing file that `nas` did not write.
    """
    path = expand(path)
    if path.suffix.lower() not in (*PICTURES, *PAGES):
        rule = f"must end in {', '.join((*PICTURES, *PAGES))}"
        raise UserError("can't draw that", [Problem("--plot", str(path), rule)])
    if not path.resolve().parent.is_dir():
        raise UserError("can't draw there", [Problem("--plot", str(path), "its folder does not exist")])
    check_output(path, "--plot", "plot")


def draw(figure: Figure, path: Path) -> None:
    """Draw a figure as a picture or a page, by the path's extension, with a mark that `nas` wrote it.

    Raises:
        UserError: the path can't be written or has an unknown extension.
    """
    check_plot_path(path)
    with output(path, "--plot", "plot") as file:
        if file.suffix.lower() in PAGES:
            page(figure).write_html(file, include_plotlyjs=True)
            with file.open("a", encoding="utf-8") as stream:
                stream.write(f"<!-- {MARK} -->\n")
        else:
            key = "Software" if file.suffix.lower() == ".png" else "Creator"
            picture(figure).savefig(file, metadata={key: f"matplotlib, {MARK}"})


def picture(figure: Figure) -> Any:
    """Return the matplotlib figure."""
    from matplotlib.figure import Figure as Picture

    count = len(figure.panels)
    drawn = Picture(figsize=(figure.width * count, figure.height), layout="constrained", dpi=120)
    for number, panel in enumerate(figure.panels, start=1):
        axes = drawn.add_subplot(1, count, number)
        if isinstance(panel, HeatMap):
            add_heat_map(axes, panel, last=number == count)
            continue
        # first, because it resets the ticks
        axes.set(xscale="log" if panel.x.log else "linear", yscale="log" if panel.y.log else "linear")
        for item in panel.series:
            _add_to_picture(axes, item)
        _style_axis(axes.xaxis, panel.x)
        _style_axis(axes.yaxis, panel.y)
        axes.set_xlim(panel.x.low, panel.x.high)
        axes.set_ylim(panel.y.low, panel.y.high)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2, linewidth=0.6)
        if number == 1:
            axes.legend(loc="best", frameon=False, fontsize=8)
    drawn.suptitle(figure.title, fontsize=11)
    return drawn


def _add_to_picture(axes: Any, series: Series) -> None:
    if series.band is not None:
        axes.fill_between(series.x, *series.band, color=series.colour, alpha=_BAND_OPACITY, linewidth=0)
    if series.x_error is not None or series.y_error is not None:
        axes.errorbar(
            series.x, series.y, xerr=series.x_error, yerr=series.y_error, fmt="none", ecolor=series.colour,
            elinewidth=1, capsize=2, alpha=0.8,
        )  # fmt: skip
    is_open = series.marker == "square"
    axes.plot(
        series.x, series.y, color=series.colour, label=series.name or None,
        marker=_PICTURE_MARKERS[series.marker], markersize=series.size,
        markeredgewidth=1 if is_open else 0, markerfacecolor="none" if is_open else series.colour,
        linestyle=_PICTURE_DASHES[series.dash] if series.curve else "",
        drawstyle=_PICTURE_STEPS[series.curve or "straight"],
    )  # fmt: skip
    for index, text in enumerate(series.labels):
        where = {"xy": (series.x[index], series.y[index]), "xytext": (5, 5), "textcoords": "offset points"}
        axes.annotate(text, **where, fontsize=8, color=series.colour)


def _style_axis(axis: Any, described: Axis) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_label_text(described.label)
    if (ticks := described.ticks) is not None:
        axis.set_major_formatter(FuncFormatter(lambda value, _: ticks(value)))


def page(figure: Figure) -> Any:
    """Return the plotly figure."""
    from plotly.subplots import make_subplots

    titles = [panel.title if isinstance(panel, HeatMap) else "" for panel in figure.panels]
    drawn = make_subplots(rows=1, cols=len(figure.panels), subplot_titles=titles)
    named: set[str] = set()
    for column, panel in enumerate(figure.panels, start=1):
        if isinstance(panel, HeatMap):
            drawn.add_trace(heat_map_trace(panel, last=column == len(figure.panels)), row=1, col=column)
            drawn.update_yaxes(autorange="reversed", type="category", row=1, col=column)
            drawn.update_xaxes(type="category", row=1, col=column)
            continue
        for trace in chain.from_iterable(_traces(panel, item) for item in panel.series):
            trace.showlegend = bool(trace.name) and trace.name not in named
            named.add(trace.name)
            drawn.add_trace(trace, row=1, col=column)
        drawn.update_xaxes(_page_axis(panel.x), row=1, col=column)
        drawn.update_yaxes(_page_axis(panel.y), row=1, col=column)
    drawn.update_layout(title=figure.title, template="simple_white")
    return drawn


def _traces(panel: Panel, series: Series) -> list[Any]:
    import plotly.graph_objects as go

    traces = []
    if series.band is not None:
        low, high = (np.asarray(edge, dtype=float) for edge in series.band)
        known = ~np.isnan(low)  # a gap would break the outline of the band
        x, low, high = np.asarray(series.x, dtype=float)[known], low[known], high[known]
        traces.append(
            go.Scatter(
                x=np.concatenate([x, x[::-1]]), y=np.concatenate([low, high[::-1]]), fill="toself",
                fillcolor=series.colour, opacity=_BAND_OPACITY, line={"width": 0}, hoverinfo="skip",
                legendgroup=series.name,
            )
        )  # fmt: skip
    modes = {"markers": series.marker, "lines": series.curve, "text": series.labels}
    values = f"%{{x:{panel.x.format}}} · %{{y:{panel.y.format}}}<extra></extra>"
    traces.append(
        go.Scatter(
            x=series.x, y=series.y, name=series.name, legendgroup=series.name,
            mode="+".join(mode for mode, wanted in modes.items() if wanted),
            marker={"color": series.colour, "symbol": _PAGE_MARKERS[series.marker], "size": series.size + 3},
            line={
                "color": series.colour, "dash": series.dash, "shape": _PAGE_STEPS[series.curve or "straight"],
            },
            error_x=_error(series.x_error), error_y=_error(series.y_error),
            text=list(series.labels), textposition="top right", textfont={"color": series.colour},
            hovertext=list(series.hover), hovertemplate="%{hovertext}<br>" * bool(series.hover) + values,
        )
    )  # fmt: skip
    return traces


def _error(error: tuple[Values, Values] | None) -> dict[str, Any] | None:
    if error is None:
        return None
    below, above = (np.asarray(part, dtype=float).tolist() for part in error)
    return {"type": "data", "array": above, "arrayminus": below, "thickness": 1, "width": 3}


def _page_axis(axis: Axis) -> dict[str, Any]:
    form: dict[str, Any] = {"title": {"text": axis.label}, "tickformat": axis.format}
    if axis.log:
        form["type"] = "log"
    if axis.low is not None or axis.high is not None:
        limits = [axis.low, axis.high]
        form["range"] = [np.log10(limit) if axis.log and limit is not None else limit for limit in limits]
    return form
