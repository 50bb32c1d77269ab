"""Plots of the front: a static picture with matplotlib, an interactive page with plotly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.objectives import Objective
from studies.analysis.standings import Standings
from studies.reporting.figure import GREEN, GREY, PAGES, PURPLE, check_plot_path
from studies.stats.pareto import front_indices
from studies.study.trial_record import DONE, TrialRecord
from surgery.files.outputs import MARK, output

if TYPE_CHECKING:
    from studies.study import Study


def plot_front(study: Study, standings: Standings, path: Path) -> None:
    """Plot the front among all trained architectures; one panel per pair of objectives.

    Bars are 90 % intervals of the means of architectures on or near the front, if there are replicates.

    Raises:
        UserError: the path can't be written or has an unknown ending.
    """
    check_plot_path(path)
    records = [record for record in study.records() if record.state == DONE and record.values]
    with output(path, "--plot", "plot") as file:
        (_page if file.suffix.lower() in PAGES else _picture)(study, records, standings, file)


def save_picture(figure: Any, path: Path) -> None:
    """Write a matplotlib figure with a mark that `nas` wrote it."""
    key = "Software" if path.suffix.lower() == ".png" else "Creator"
    figure.savefig(path, metadata={key: f"matplotlib, {MARK}"})


def save_page(figure: Any, path: Path) -> None:
    """Write a plotly figure with a mark that `nas` wrote it."""
    figure.write_html(path, include_plotlyjs=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"<!-- {MARK} -->\n")


def _pairs(objectives: Sequence[Objective]) -> list[tuple[int, int]]:
    """Return (x, y) columns of the panels: the first objective is the y axis of every other one."""
    if len(objectives) == 1:
        return []
    return [(along, 0) for along in range(1, len(objectives))] + [
        (along, up) for up, along in combinations(range(1, len(objectives)), 2)
    ]


def _picture(study: Study, records: list[TrialRecord], standings: Standings, path: Path) -> None:
    from matplotlib.figure import Figure

    objectives = study.space.objectives
    pairs = _pairs(objectives) or [(0, 0)]
    figure = Figure(figsize=(5.2 * len(pairs), 4.4), layout="constrained", dpi=120)
    on_front = {row.record.number for row in standings.front}
    for position, (along, up) in enumerate(pairs, start=1):
        axes = figure.add_subplot(1, len(pairs), position)
        _panel(axes, records, on_front, along, up, objectives)
        _bars(axes, standings, along, up)
        if position == 1:
            axes.legend(loc="upper right", frameon=False, fontsize=8)
    trained = f"{len(on_front)} of {len(records)} trained architectures are on the front"
    figure.suptitle(f"{study.name}: {trained}", fontsize=11)
    save_picture(figure, path)


def _panel(
    axes: Any, records: list[TrialRecord], on_front: set[int], along: int, up: int,
    objectives: Sequence[Objective],
) -> None:  # fmt: skip
    def points(chosen: list[TrialRecord]) -> tuple[list[float], list[float]]:
        values = [record.values for record in chosen if record.values]
        return [value[along] for value in values], [value[up] for value in values]

    front = [record for record in records if record.number in on_front]
    rest = [record for record in records if record.number not in on_front]
    axes.scatter(*points(rest), s=18, color=GREY, alpha=0.7, linewidths=0, label="trained")
    axes.scatter(*points(front), s=34, color=GREEN, linewidths=0, label="on the front")
    pair = (objectives[along], objectives[up])
    both = [(record.values[along], record.values[up]) for record in front if record.values]
    steps = sorted(both[index] for index in front_indices(both, pair)) if along != up else []
    if len(steps) > 1:
        side = "post" if objectives[along].direction == "min" else "pre"  # towards what is dominated
        axes.step(*zip(*steps, strict=True), where=side, color=GREEN, linewidth=1, alpha=0.6)
    for record in records:
        if record.baseline and record.values:
            x, y = record.values[along], record.values[up]
            axes.plot(x, y, marker="s", markersize=7, markerfacecolor="none", color=PURPLE)
            axes.annotate(
                record.baseline, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8, color=PURPLE
            )
    axes.set_xlabel(f"{objectives[along].name} ({objectives[along].metric.unit})")
    axes.set_ylabel(f"{objectives[up].name} ({objectives[up].metric.unit})")
    axes.xaxis.set_major_formatter(_ticks(objectives[along]))
    axes.yaxis.set_major_formatter(_ticks(objectives[up]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.6)


def _bars(axes: Any, standings: Standings, along: int, up: int) -> None:
    """Draw the intervals of architectures that are or may be on the front."""
    for row in standings.shown:
        if row.record.values is not None and any(half is not None for half in row.half):
            axes.errorbar(
                row.record.values[along], row.record.values[up], xerr=row.half[along], yerr=row.half[up],
                fmt="none", ecolor=GREEN if row.on_front else GREY, elinewidth=1, capsize=2, alpha=0.8,
            )  # fmt: skip


def _ticks(objective: Objective) -> Any:
    from matplotlib.ticker import FuncFormatter

    if objective.measured:
        return FuncFormatter(lambda value, _: f"{value:.3g}")
    return FuncFormatter(lambda value, _: objective.metric.format(value))


def _page(study: Study, records: list[TrialRecord], standings: Standings, path: Path) -> None:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    objectives = study.space.objectives
    pairs = _pairs(objectives) or [(0, 0)]
    on_front = {row.record.number for row in standings.front}
    figure = make_subplots(rows=1, cols=len(pairs))
    groups = (
        ("trained", GREY, "circle", [r for r in records if r.number not in on_front and not r.baseline]),
        ("on the front", GREEN, "circle", [r for r in records if r.number in on_front and not r.baseline]),
        ("baseline", PURPLE, "square", [r for r in records if r.baseline]),
    )
    for column, (along, up) in enumerate(pairs, start=1):
        for name, colour, symbol, chosen in groups:
            figure.add_trace(
                go.Scatter(
                    x=[record.values[along] for record in chosen if record.values],
                    y=[record.values[up] for record in chosen if record.values],
                    mode="markers",
                    name=name,
                    legendgroup=name,
                    showlegend=column == 1,
                    marker={"color": colour, "symbol": symbol, "size": 9},
                    error_x=_error(standings, chosen, along),
                    error_y=_error(standings, chosen, up),
                    text=[_hover(standings, record) for record in chosen],
                    hovertemplate="%{text}<br>%{x:.4s} · %{y:.4f}<extra></extra>",
                ),
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text=objectives[along].name, row=1, col=column)
        figure.update_yaxes(title_text=objectives[up].name, row=1, col=column)
    figure.update_layout(
        title=f"{study.name}: front of {len(records)} trained architectures", template="simple_white"
    )
    save_page(figure, path)


def _error(standings: Standings, records: list[TrialRecord], column: int) -> dict[str, Any] | None:
    """Return plotly's error bars of architectures that are or may be on the front; None without any."""
    shown = {row.record.number: row.half[column] for row in standings.shown}
    halves = [shown.get(record.number) for record in records]
    if not any(halves):
        return None
    return {"type": "data", "array": [half or 0.0 for half in halves], "thickness": 1, "width": 3}


def _hover(standings: Standings, record: TrialRecord) -> str:
    row = standings.standing(record)
    text = f"{record.name}<br>{record.line}"
    if row.p_front is None:
        return text
    return f"{text}<br>{row.runs} runs, P(front) {row.p_front:.2f}"
