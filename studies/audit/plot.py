"""Plots of the proxy loss against the loss after longer training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.reporting.figure import GREEN, GREY, PAGES, PURPLE, check_plot_path
from studies.reporting.front_plot import save_page, save_picture
from studies.stats.extrapolation import end_loss
from surgery.files.outputs import output

if TYPE_CHECKING:
    from studies.audit.report import Point, Report

_COLOURS = {"trained": GREY, "on the front": GREEN, "baseline": PURPLE}


def plot_audit(report: Report, path: Path) -> None:
    """Plot an audit as a picture or a page.

    Raises:
        UserError: the path can't be written or has an unknown ending.
    """
    check_plot_path(path)
    with output(path, "--plot", "plot") as file:
        (_page if file.suffix.lower() in PAGES else _picture)(report, file)


def _groups(report: Report) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = {name: [] for name in _COLOURS}
    for point in report.points:
        kind = "baseline" if point.record.baseline else "on the front" if point.on_front else "trained"
        groups[kind].append(point)
    return groups


def _title(report: Report) -> str:
    proxy = report.rows[0]
    return f"{report.audit.study.name}: Spearman {proxy.spearman}, tau-b {proxy.kendall}"


def _labels(report: Report) -> tuple[str, str]:
    loss = end_loss(report.audit.study.space.objectives)
    return f"proxy: {loss} (nats/token)", f"loss after {report.audit.times} times the tokens (nats/token)"


def _picture(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    for name, points in _groups(report).items():
        if not points:
            continue
        x, y = [point.proxy_loss for point in points], [point.long_loss for point in points]
        axes.scatter(x, y, s=34, color=_COLOURS[name], linewidths=0, label=name)
        for point in points:
            if len(point.long_losses) > 1:
                ends = (min(point.long_losses), max(point.long_losses))
                axes.vlines(point.proxy_loss, *ends, color=_COLOURS[name], linewidth=1)
            if point.record.baseline:
                axes.annotate(
                    point.record.baseline, (point.proxy_loss, point.long_loss), xytext=(5, -10),
                    textcoords="offset points", fontsize=8, color=PURPLE,
                )  # fmt: skip
    across, up = _labels(report)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(_title(report), fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.6)
    save_picture(figure, path)


def _page(report: Report, path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, points in _groups(report).items():
        figure.add_trace(
            go.Scatter(
                x=[point.proxy_loss for point in points],
                y=[point.long_loss for point in points],
                mode="markers",
                name=name,
                marker={"color": _COLOURS[name], "size": 9},
                text=[f"{point.record.name}<br>{point.record.line}" for point in points],
                hovertemplate="%{text}<br>proxy %{x:.4f} · long %{y:.4f}<extra></extra>",
            )
        )
    across, up = _labels(report)
    figure.update_layout(title=_title(report), xaxis_title=across, yaxis_title=up, template="simple_white")
    save_page(figure, path)
