"""Plots of searches of a table: hypervolume over tokens, with quartile bands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from studies.benchmarks.search import Replayed
from studies.benchmarks.search_figures import band
from studies.reporting.drawing import draw
from studies.reporting.figure import GREY, Axis, Dash, Figure, Panel, Series

_COLOURS = {
    "gain": "#15803d",
    "tpe": "#7e22ce",
    "random": GREY,
    "nsga2": "#c2410c",
    "nsga3": "#a16207",
    "gp": "#0369a1",
}
_RIVAL = "#be123c"
_DASHES: dict[str, Dash] = {"forecast": "solid", "none": "dash", "pareto": "dot", "median": "dashdot"}
_ACROSS = Axis(
    "tokens of all workers (1: a whole training)", ".3~g", ticks=lambda value: f"{value:g}", log=True
)
_UP = Axis("share of the table's hypervolume", ".1~%", ticks=lambda value: f"{value:.0%}", low=0.4, high=1.0)
_POINTS = 400


def plot_searches(title: str, runs: Sequence[Replayed], path: Path) -> None:
    """Plot medians over the seeds and bands between the quartiles, up to each method's longest search.

    The colour shows the sampler, the dashes the early-stopping rule.

    Raises:
        UserError: the path can't be written or has an unknown extension.
    """
    tokens = np.geomspace(
        min(run.tokens[0] for run in runs if run.tokens), max(run.spent for run in runs), _POINTS
    )
    styles = _styles(dict.fromkeys(run.method for run in runs))
    series = []
    for method, (colour, dash) in styles.items():
        own = [run for run in runs if run.method == method]
        over = tokens > max(run.spent for run in own)
        low, middle, high = np.where(over, np.nan, band(own, tokens))
        hover = [method] * len(tokens)
        series.append(
            Series(
                method, tokens, middle, colour, curve="straight", dash=dash, band=(low, high), hover=hover
            )
        )  # fmt: skip
    draw(Figure(title, [Panel(_ACROSS, _UP, series)], width=9, height=5), path)


def _styles(methods: Iterable[str]) -> dict[str, tuple[str, Dash]]:
    """Return the colour and dash of each method; rivals share a colour and cycle through the dashes."""
    dashes = cycle(_DASHES.values())
    styles: dict[str, tuple[str, Dash]] = {}
    for method in methods:
        sampler, _, stopping = method.partition("/")
        if sampler in _COLOURS:
            styles[method] = _COLOURS[sampler], _DASHES.get(stopping, "solid")
        else:
            styles[method] = _RIVAL, next(dashes)
    return styles
