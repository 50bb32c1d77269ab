"""Drawing of heat maps, as a part of a picture or of a page."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import Any

import numpy as np

from studies.reporting.figure import HeatMap

_COLOURS = "RdYlGn"  # known to matplotlib and plotly, and reversed here: low values are good


def add_heat_map(axes: Any, panel: HeatMap, *, last: bool) -> None:
    """Draw a heat map on matplotlib's axes; the last one of a figure has the colour bar."""
    from matplotlib.colors import LogNorm

    values = np.clip(np.asarray(panel.values, dtype=float), panel.low, panel.high)
    colours = LogNorm(panel.low, panel.high)
    image = axes.imshow(values, cmap=f"{_COLOURS}_r", norm=colours, aspect="auto", alpha=0.75)
    for row, texts in enumerate(panel.texts):
        for column, text in enumerate(texts):
            axes.text(column, row, text, ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(panel.columns)), panel.columns, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(panel.title, fontsize=9)
    if last:
        axes.figure.colorbar(image, ax=axes, label=panel.label, extend="both")


def heat_map_trace(panel: HeatMap, *, last: bool) -> Any:
    """Return plotly's trace of a heat map; the last one of a figure has the colour bar."""
    import plotly.graph_objects as go

    low, high = log10(panel.low), log10(panel.high)
    # logarithms are drawn, so that colours are spread as in pictures; NaN leaves a cell empty
    logs = np.log10(np.clip(np.asarray(panel.values, dtype=float), panel.low, panel.high))
    powers = list(range(ceil(low), floor(high) + 1))
    return go.Heatmap(
        x=list(panel.columns), y=list(panel.rows), z=logs, zmin=low, zmax=high,
        colorscale=_COLOURS, reversescale=True, opacity=0.75, xgap=1, ygap=1,
        text=[list(row) for row in panel.texts], texttemplate="%{text}",
        hovertext=[list(row) for row in panel.hover], hovertemplate="%{hovertext}<extra></extra>",
        showscale=last,
        colorbar={
            "title": {"text": panel.label}, "tickvals": powers, "ticktext": [f"{10**p:g}" for p in powers],
        },
    )  # fmt: skip
