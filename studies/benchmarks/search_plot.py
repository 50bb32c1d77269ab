"""Plots of searches of a table: hypervolume over tokens, with quartile bands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from studies.benchmarks.search import Replayed, band
from studies.reporting.figure import GREEN, GREY, PAGES, PURPLE, check_plot_path
from studies.reporting.front_plot import save_page, save_picture
from studies.surrogates.observations import Floats
from surgery.files.outputs import output

_COLOURS = {
    "gain": GREEN,
    "tpe": PURPLE,
    "random": GREY,
    "nsga2": "#c2410c",
    "nsga3": "#a16207",
    "gp": "#0369a1",
}
_RIVAL = "#be123c"
_DASHES = {"forecast": "solid", "none": "dash", "pareto": "dot", "median": "dashdot"}
_STYLES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_ACROSS = "tokens of all workers (1: a whole training)"
_UP = "share of the table's hypervolume"
_POINTS = 400


def plot_searches(title: str, runs: Sequence[Replayed], path: Path) -> None:
    """Plot medians over the seeds and bands between the quartiles, up to each method's longest search.

    The colour shows the sampler, the dashes the early-stopping rule.

    Raises:
        UserError: the path can't be written or has an unknown ending.
    """
    check_plot_path(path)
    tokens = np.geomspace(
        min(run.tokens[0] for run in runs if run.tokens), max(run.spent for run in runs), _POINTS
    )
    bands = {}
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        over = tokens > max(run.spent for run in own)
        bands[method] = np.where(over, np.nan, band(own, tokens))
    with output(path, "--plot", "plot") as file:
        (_page if file.suffix.lower() in PAGES else _picture)(title, tokens, bands, file)


def _looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the colour and dash of each method; rivals share a colour and cycle through the dashes."""
    dashes = cycle(_STYLES)
    styles = {}
    for method in methods:
        sampler, _, stopping = method.partition("/")
        if sampler in _COLOURS:
            styles[method] = _COLOURS[sampler], _DASHES.get(stopping, "solid")
        else:
            styles[method] = _RIVAL, next(dashes)
    return styles


def _picture(title: str, tokens: Floats, bands: dict[str, Floats], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter, ScalarFormatter

    figure = Figure(figsize=(9, 5), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    looks = _looks(bands)
    for method, (low, middle, high) in bands.items():
        colour, dash = looks[method]
        axes.fill_between(tokens, low, high, color=colour, alpha=0.1, linewidth=0)
        axes.plot(tokens, middle, color=colour, linestyle=_STYLES[dash], label=method)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(_ACROSS)
    axes.set_ylabel(_UP)
    axes.set_ylim(0.4, 1.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(title, fontsize=11)
    save_picture(figure, path)


def _page(title: str, tokens: Floats, bands: dict[str, Floats], path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    looks = _looks(bands)
    for method, (low, middle, high) in bands.items():
        colour, dash = looks[method]
        known = ~np.isnan(middle)  # a gap would break the outline of the band
        there = tokens[known]
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([there, there[::-1]]), y=np.concatenate([low[known], high[known][::-1]]),
                fill="toself",
                fillcolor=colour, opacity=0.1, line={"width": 0}, hoverinfo="skip", legendgroup=method,
                showlegend=False,
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=tokens, y=middle, name=method, line={"color": colour, "dash": dash}, legendgroup=method,
                hovertemplate=f"{method}<br>%{{x:.1f}} trainings · %{{y:.1%}}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title_text=_ACROSS, type="log")
    figure.update_yaxes(title_text=_UP, tickformat=".0%", range=[0.4, 1.0])
    figure.update_layout(title=title, template="simple_white")
    save_page(figure, path)
