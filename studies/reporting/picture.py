"""Drawing of figures with matplotlib, with labels that don't overlap."""

from __future__ import annotations

import io
import textwrap
from math import ceil, inf
from typing import Any

import numpy as np

from studies.reporting.figure import GREY, Axis, Figure, HeatMap, Panel, Series
from studies.reporting.heat_map import add_heat_map
from studies.reporting.labels import LEADER_FROM, along, place_labels
from studies.reporting.ticks import binary_ticks

_STYLE: dict[str, Any] = {
    "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "figure.titlesize": 9, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "svg.hashsalt": "nas",
    "pdf.fonttype": 42, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
}  # fmt: skip
_BAND_OPACITY = 0.15
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_STEPS = {"straight": "default", "after": "steps-post", "before": "steps-pre"}
_MARKERS = {
    "dot": "o", "ring": "o", "square": "s", "star": "*", "frame": "D",
    "up": "^", "down": "v", "right": ">", "left": "<",
    "open up": "^", "open down": "v", "open right": ">", "open left": "<", None: "",
}  # fmt: skip
OPEN = ("ring", "square", "frame", "open up", "open down", "open right", "open left")
LABEL = "label"  # name of groups with labels
_EM = 0.62  # width of a letter in the unit of its size
LABEL_SIZE = 6.5
_DPI = 200
_FEW_DECADES = 200  # an axis whose ends have a smaller ratio has ticks at 1, 2 and 5 times a power of ten


def picture(figure: Figure, *, title: bool = True, clear: bool = False) -> Any:
    """Return the matplotlib figure, laid out.

    Args:
        figure: to draw.
        title: whether it has its title; it is broken into lines where it is wider than the picture.
        clear: whether the background is transparent, for a page. Labels are then in groups named `label-N`,
            and the page draws the halo behind them.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(_STYLE):
        columns = min(figure.columns, len(figure.panels))
        rows = ceil(len(figure.panels) / columns)
        drawn = Picture(figsize=(figure.width * columns, figure.height * rows), dpi=_DPI)
        FigureCanvasAgg(drawn)  # measures texts
        if clear:
            drawn.set_facecolor("none")
        drawn.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
        plots = []
        for number, panel in enumerate(figure.panels, start=1):
            axes = drawn.add_subplot(rows, columns, number)
            if isinstance(panel, HeatMap):
                add_heat_map(axes, panel, last=number == len(figure.panels))
            else:
                _add_panel(axes, panel)
                plots.append((axes, panel))
                if clear:
                    axes.set_facecolor("none")
        free = (
            drawn.add_subplot(rows, columns, rows * columns) if len(figure.panels) < rows * columns else None
        )
        _add_legend(drawn, [axes for axes, _ in plots], columns, free)
        if title:
            letters = int(72 * drawn.get_figwidth() / (_EM * _STYLE["figure.titlesize"]))
            drawn.suptitle(textwrap.fill(figure.title, letters))
        drawn.draw_without_rendering()
        drawn.set_layout_engine("none")  # labels are placed into this layout
        for axes, panel in plots:
            _add_labels(axes, panel, halo=not clear)
    return drawn


def as_svg(drawn: Any) -> str:
    """Return a drawn figure as an <svg> element."""
    stream = io.StringIO()
    drawn.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _add_panel(axes: Any, panel: Panel) -> None:
    # first, because it resets the ticks
    axes.set(xscale="log" if panel.x.log else "linear", yscale="log" if panel.y.log else "linear")
    for order, item in enumerate(panel.series):
        _add_series(axes, item, order, inside=_inside(panel, item))
    _style_axis(axes.xaxis, panel.x)
    _style_axis(axes.yaxis, panel.y)
    axes.set_xlim(panel.x.low, panel.x.high)
    axes.set_ylim(panel.y.low, panel.y.high)
    if panel.y.names:
        axes.set_ylim(len(panel.y.names) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.5)


def _inside(panel: Panel, series: Series) -> bool:
    """Return whether these are points, and all within the limits."""
    if series.marker is None:
        return False
    low, high = (
        (-inf if panel.x.low is None else panel.x.low),
        (inf if panel.x.high is None else panel.x.high),
    )
    bottom, top = (
        (-inf if panel.y.low is None else panel.y.low),
        (inf if panel.y.high is None else panel.y.high),
    )
    return all(low <= x <= high and bottom <= y <= top for x, y in zip(series.x, series.y, strict=True))


def _add_series(axes: Any, series: Series, order: int, *, inside: bool) -> None:
    above = 2 + 0.01 * order
    if series.band is not None:
        axes.fill_between(series.x, *series.band, color=series.colour, alpha=_BAND_OPACITY, linewidth=0)
    if series.x_error is not None or series.y_error is not None:
        axes.errorbar(
            series.x, series.y, xerr=series.x_error, yerr=series.y_error, fmt="none", ecolor=series.colour,
            elinewidth=0.8, capsize=1.5, capthick=0.8, alpha=0.8, zorder=above,
        )  # fmt: skip
    is_open = series.marker in OPEN
    axes.plot(
        series.x, series.y, color=series.colour, label=series.name or None,
        marker=_MARKERS[series.marker], markersize=series.size,
        markeredgewidth=0.9 if is_open else 0, markerfacecolor="none" if is_open else series.colour,
        linestyle=_DASHES[series.dash] if series.curve else "",
        drawstyle=_STEPS[series.curve or "straight"], zorder=above,
        clip_on=not inside,  # markers at the limits are whole
    )  # fmt: skip


def _style_axis(axis: Any, described: Axis) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.set_label_text(described.label)
    if described.names:
        axis.set_major_locator(FixedLocator(range(len(described.names))))
        axis.set_ticklabels(list(described.names))
        return
    if described.base == 2:
        low, high = axis.get_data_interval()
        axis.set_major_locator(FixedLocator(binary_ticks(low, high, log=described.log)))
        axis.set_minor_locator(FixedLocator([]))
    elif not described.log:
        axis.set_major_locator(MaxNLocator(5, steps=described.steps or (1, 2, 2.5, 5, 10)))
    if (ticks := described.ticks) is not None:
        axis.set_major_formatter(FuncFormatter(lambda value, _: ticks(value)))
        if described.log and described.base == 10:
            axis.set_minor_formatter(NullFormatter())
            low, high = axis.get_data_interval()
            if 0 < high < _FEW_DECADES * low:
                axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))


def _add_legend(drawn: Any, every: list[Any], columns: int, free: Any) -> None:
    """Add one legend for all panels where it hides nothing: in the place of a panel, or below them."""
    if free is not None:
        free.set_axis_off()
    named: dict[str, Any] = {}
    for axes in every:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    if named and free is not None:
        free.legend(list(named.values()), list(named), loc="center", frameon=False, labelspacing=0.8)
    elif named:
        for beside in range(min(len(named), 3 * columns), 0, -1):
            added = drawn.legend(
                list(named.values()), list(named), loc="outside lower center", ncols=beside, frameon=False,
                handletextpad=0.4, columnspacing=1.2,
            )  # fmt: skip
            if beside == 1 or added.get_window_extent(drawn.canvas.get_renderer()).width < drawn.bbox.width:
                break
            added.remove()


def _add_labels(axes: Any, panel: Panel, *, halo: bool) -> None:
    """Add the labels where they overlap nothing; those far from their points get a line to them."""
    from matplotlib.patheffects import withStroke

    texts, anchors, colours = [], [], []
    for series in panel.series:
        for index, text in enumerate(series.labels):
            if text:
                texts.append(text)
                anchors.append((series.x[index], series.y[index]))
                colours.append(series.colour)
    if not texts:
        return
    scale = 72 / axes.figure.dpi
    corner = axes.bbox.p0

    def at(x: Any, y: Any) -> Any:
        """Points (1/72 inch) from the lower left corner of the axes."""
        return (axes.transData.transform(np.column_stack([x, y]).astype(float)) - corner) * scale

    added = [
        axes.annotate(
            text,
            anchor,
            (0, 0),
            textcoords="offset points",
            fontsize=LABEL_SIZE,
            color=colour,
            ha="center",
            va="center",
            annotation_clip=False,
            zorder=4,
            gid=f"{LABEL}-{number}",
            # outlines of all letters, which take ten times the bytes of the text
            path_effects=[withStroke(linewidth=1.5, foreground="#ffffff", alpha=0.75)] if halo else None,
        )
        for number, (text, anchor, colour) in enumerate(zip(texts, anchors, colours, strict=True))
    ]
    renderer = axes.figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in added]
    sizes = np.array([(box.width, box.height) for box in boxes]) * scale
    marked = [series for series in panel.series if series.marker and series.colour != GREY]
    points = [at(series.x, series.y) for series in marked]
    radii = [np.full(len(series.x), series.size / 2) for series in marked]
    curves = soft_obstacles(panel, at)
    room = (axes.bbox.width * scale, axes.bbox.height * scale)
    where_to = at(*zip(*anchors, strict=True))
    chosen = place_labels(
        where_to,
        sizes,
        np.concatenate([np.empty((0, 2)), *points]),
        np.concatenate([np.empty(0), *radii]),
        curves,
        room,
    )
    for text, where, size in zip(added, chosen, sizes, strict=True):
        if where is None:
            text.remove()
            continue
        text.set_position(where)
        if np.hypot(*np.maximum(np.abs(where) - size / 2, 0)) > LEADER_FROM:
            axes.annotate(
                "", text.xy, where, textcoords="offset points", zorder=1.5, annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-", "color": text.get_color(), "linewidth": 0.4, "alpha": 0.6,
                    "shrinkA": float(size[1] / 2), "shrinkB": 2,
                },
            )  # fmt: skip


def corners(series: Series) -> tuple[Any, Any]:
    """Return the corners of a series' curve, those of its steps among them."""
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    if series.curve == "after":
        return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
    if series.curve == "before":
        return np.repeat(x, 2)[:-1], np.repeat(y, 2)[1:]
    return x, y


def soft_obstacles(panel: Panel, at: Any) -> Any:
    """Return (k, 2) points that labels need not avoid strictly: of curves, error bars, and the grey crowd."""
    lines = [along(*at(*corners(series)).T) for series in panel.series if series.curve and not series.marker]
    crowd = [at(series.x, series.y) for series in panel.series if series.marker and series.colour == GREY]
    return np.concatenate([np.empty((0, 2)), *lines, *crowd, *(_bars(series, at) for series in panel.series)])


def _bars(series: Series, at: Any) -> Any:
    """Return (k, 2) places along the error bars of a series."""
    parts = [np.empty((0, 2))]
    for error, is_x in ((series.x_error, True), (series.y_error, False)):
        if error is None:
            continue
        for x, y, below, above in zip(series.x, series.y, *error, strict=True):
            ends = (x - below, x + above) if is_x else (y - below, y + above)
            other = (y, y) if is_x else (x, x)
            parts.append(along(*at(*((ends, other) if is_x else (other, ends))).T))
    return np.concatenate(parts)
