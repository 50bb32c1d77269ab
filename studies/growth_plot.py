"""The hypervolume over tokens and over time, with the random line, as a picture or a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.plots import GREEN, GREY, PAGES, check_plot_path, writing_plot

if TYPE_CHECKING:
    from studies.hypervolume import Array, Growth

RANDOM_NAME = "random trials alone (mean, 90 % of orders)"


def plot_growth(name: str, found: Growth, path: Path) -> None:
    """Raises:
    UserError: the path can't be written or has an unknown ending.
    """
    check_plot_path(path)
    with writing_plot(path):
        (_page if path.suffix.lower() in PAGES else _picture)(name, found, path)


def _panels(found: Growth) -> list[tuple[str, Array, Array]]:
    """(axis, of the study, of the random trials)."""
    return [
        ("tokens trained on", found.tokens, found.random_tokens),
        ("minutes of training, over all workers", found.seconds / 60, found.random_seconds / 60),
    ]


def _picture(name: str, found: Growth, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    for place, (label, spent, spent_at_random) in enumerate(_panels(found), start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.step(spent, found.volumes, where="post", color=GREEN, label="the study")
        mean, low, high = found.random_volumes
        axes.fill_between(spent_at_random, low, high, color=GREY, alpha=0.3, linewidth=0)
        axes.plot(spent_at_random, mean, color=GREY, marker=".", label=RANDOM_NAME)
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2, linewidth=0.6)
        if place == 1:
            axes.set_ylabel("hypervolume (share of the box)")
            axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(f"{name}: what its front dominates", fontsize=11)
    figure.savefig(path)


def _page(name: str, found: Growth, path: Path) -> None:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, shared_yaxes=True)
    mean, low, high = found.random_volumes
    for column, (label, spent, spent_at_random) in enumerate(_panels(found), start=1):
        first = column == 1
        study = go.Scatter(
            x=spent, y=found.volumes, name="the study", line={"color": GREEN, "shape": "hv"},
            text=[f"#{number}" for number in found.numbers], legendgroup="study", showlegend=first,
            hovertemplate="%{text}<br>%{x:.4s} · %{y:.3f}<extra></extra>",
        )  # fmt: skip
        bars = {"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low}
        chance = go.Scatter(
            x=spent_at_random, y=mean, error_y=bars, name=RANDOM_NAME, line={"color": GREY},
            legendgroup="random", showlegend=first,
        )  # fmt: skip
        for trace in (study, chance):
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=label, rangemode="tozero", row=1, col=column)
    figure.update_yaxes(title_text="hypervolume (share of the box)", rangemode="tozero", row=1, col=1)
    figure.update_layout(title=f"{name}: what its front dominates", template="simple_white")
    figure.write_html(path, include_plotlyjs=True)
