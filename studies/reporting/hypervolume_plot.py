"""Plots of the hypervolume over tokens and time, of the study and each sampler's trials alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.reporting.figure import GREEN, GREY, PAGES, PURPLE, check_plot_path
from studies.reporting.front_plot import save_page, save_picture
from studies.study.trial_record import RANDOM
from surgery.config.quantities import format_count
from surgery.files.outputs import output

if TYPE_CHECKING:
    from studies.analysis.hypervolume_growth import Growth

_AXES = {"tokens": "text trained on", "seconds": "training time, over all workers"}
_FORMATS = {
    "tokens": lambda value, _: format_count(value),
    "seconds": lambda value, _: f"{value / 60:.3g} min",
}
BAND = "mean and 90 % over orders"


def plot_growth(name: str, curve: Growth, path: Path) -> None:
    """Plot the growth of a study's hypervolume.

    Raises:
        UserError: the path can't be written or has an unknown ending.
    """
    check_plot_path(path)
    with output(path, "--plot", "plot") as file:
        (_page if file.suffix.lower() in PAGES else _picture)(name, curve, file)


def _picture(name: str, curve: Growth, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    for panel, (what, label) in enumerate(_AXES.items(), start=1):
        axes = figure.add_subplot(1, 2, panel)
        axes.step(getattr(curve, what), curve.volumes, where="post", color=GREEN, label="the whole study")
        for who, line in curve.alone.items():
            mean, low, high = line.volumes
            across, colour = getattr(line, what), GREY if who == RANDOM else PURPLE
            axes.fill_between(across, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(across, mean, color=colour, marker=".", label=f"{who} trials alone ({BAND})")
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(_FORMATS[what]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2, linewidth=0.6)
        if panel == 1:
            axes.set_ylabel("hypervolume (share of the box)")
            axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(f"{name}: what its front dominates", fontsize=11)
    save_picture(figure, path)


def _page(name: str, curve: Growth, path: Path) -> None:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, shared_yaxes=True)
    for column, (what, label) in enumerate(_AXES.items(), start=1):
        traces = [
            go.Scatter(
                x=getattr(curve, what), y=curve.volumes, name="the whole study", legendgroup="study",
                line={"color": GREEN, "shape": "hv"}, text=[f"#{number}" for number in curve.numbers],
                showlegend=column == 1, hovertemplate="%{text}<br>%{x:.4s} · %{y:.3f}<extra></extra>",
            )
        ]  # fmt: skip
        for who, line in curve.alone.items():
            mean, low, high = line.volumes
            bars = {"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low}
            traces.append(
                go.Scatter(
                    x=getattr(line, what), y=mean, error_y=bars, name=f"{who} trials alone ({BAND})",
                    line={"color": GREY if who == RANDOM else PURPLE}, legendgroup=who,
                    showlegend=column == 1,
                )
            )  # fmt: skip
        for trace in traces:
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=f"{label} ({what})", rangemode="tozero", row=1, col=column)
    figure.update_yaxes(title_text="hypervolume (share of the box)", rangemode="tozero", row=1, col=1)
    figure.update_layout(title=f"{name}: what its front dominates", template="simple_white")
    save_page(figure, path)
