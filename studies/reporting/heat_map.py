"""Drawing of heat maps, as a part of a picture or of a graph."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import Any

import numpy as np

from studies.reporting.figure import HeatMap

_COLOURS = "YlOrBr"  # known to matplotlib and plotly; from light to dark for people with any colour blindness
EMPTY, LETTERS = "#eef0f2", "#1b1b1b"  # of cells without a colour; of light cells, on pages in dark mode, too
_UPRIGHT = 4  # letters of a column's name that need not be turned
_DARK = 0.6  # share of the scale from which letters are white


def add_heat_map(axes: Any, panel: HeatMap, *, last: bool) -> None:
    """Draw a heat map on matplotlib's axes; the last one of a figure has the colour bar."""
    from matplotlib.colors import LogNorm

    values = np.clip(np.asarray(panel.values, dtype=float), panel.low, panel.high)
    colours = LogNorm(panel.low, panel.high)
    image = axes.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5, np.arange(values.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(values), cmap=_COLOURS, norm=colours, edgecolors="white", linewidth=0.6,
    )  # fmt: skip
    axes.set_facecolor(EMPTY)
    axes.invert_yaxis()
    for row, texts in enumerate(panel.texts):
        for column, text in enumerate(texts):
            dark = colours(values[row, column]) > _DARK
            axes.text(
                column, row, text, ha="center", va="center", fontsize=6, color="white" if dark else LETTERS
            )
    turned = any(len(name) > _UPRIGHT for name in panel.columns)
    axes.set_xticks(
        range(len(panel.columns)), panel.columns, rotation=30 if turned else 0,
        ha="right" if turned else "center",
    )  # fmt: skip
    axes.set_yticks(range(len(panel.rows)), panel.rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(panel.title, fontsize=8)
    if panel.caption:
        axes.set_xlabel("\n".join(panel.caption), fontsize=6.5, loc="left")
    if last and panel.label:
        axes.figure.colorbar(image, ax=axes, label=panel.label, extend="both")


def heat_map_trace(panel: HeatMap, *, last: bool) -> Any:
    """Return plotly's trace of a heat map; the last one of a figure has the colour bar."""
    import plotly.graph_objects as go

    low, high = log10(panel.low), log10(panel.high)
    # logarithms are drawn, so that colours are spread as in pictures; NaN leaves a cell empty
    logs = np.log10(np.clip(np.asarray(panel.values, dtype=float), panel.low, panel.high))
    powers = list(range(ceil(low), floor(high) + 1))
    return go.Heatmap(
        x=list(panel.columns), y=list(panel.rows), z=logs.round(3), zmin=low, zmax=high,
        colorscale=_COLOURS, xgap=1, ygap=1,
        text=[list(row) for row in panel.texts], texttemplate="%{text}",
        hovertext=[list(row) for row in panel.hover], hovertemplate="%{hovertext}<extra></extra>",
        showscale=last and bool(panel.label),
        colorbar={
            "title": {"text": panel.label}, "tickvals": powers, "ticktext": [f"{10**p:g}" for p in powers],
        },
    )  # fmt: skip
