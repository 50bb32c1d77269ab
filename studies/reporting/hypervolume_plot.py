"""Plot of the hypervolume over tokens and time, of the study and of each sampler's trials alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.reporting.drawing import draw
from studies.reporting.figure import BLUE, GREY, ORANGE, Axis, Figure, Panel, Series
from studies.reporting.ticks import plain_ticks, time_unit
from studies.study.trial_record import RANDOM
from surgery.config.quantities import format_count

if TYPE_CHECKING:
    from studies.analysis.hypervolume_growth import Growth

_UP = Axis("hypervolume (share of the box)", ".3~f", ticks=lambda value: f"{value:g}", low=0)


def plot_growth(name: str, curve: Growth, path: Path, *, trained: bool = True) -> None:
    """Draw `growth_figure` into a file.

    Raises:
        UserError: the path can't be written or has an unknown extension.
    """
    draw(growth_figure(name, curve, trained=trained), path)


def growth_figure(name: str, curve: Growth, *, trained: bool = True) -> Figure:
    """Return the plot of the growth of a study's hypervolume.

    Args:
        trained: whether its trials train on their tokens; else they are measured on them.
    """
    most = float(curve.seconds[-1]) if len(curve.seconds) else 0.0
    unit, seconds, steps = time_unit(most)
    tokens = Axis(
        f"tokens {'trained' if trained else 'measured'} on", ".4~s", ticks=plain_ticks(format_count), low=0
    )
    time = Axis(
        f"{'training ' if trained else ''}time of all workers ({unit})",
        ".4~g",
        ticks=lambda value: f"{value:g}",
        low=0,
        steps=steps,
    )
    panels = [
        Panel(tokens, _UP, _series(curve, "tokens", 1)),
        Panel(time, _UP, _series(curve, "seconds", seconds)),
    ]
    return Figure(
        f"{name}: share of the box from worst to best results that the front dominates",
        panels,
    )


def _series(curve: Growth, what: str, unit: int) -> list[Series]:
    hover = [
        f"after #{number}<br>hypervolume {volume:.3f}"
        for number, volume in zip(curve.numbers, curve.volumes, strict=True)
    ]
    across = getattr(curve, what) / unit
    series = []
    for sampler, line in curve.alone.items():
        mean, low, high = line.volumes
        label = f"{sampler} trials alone (mean, 90 % of orders)"
        colour = GREY if sampler == RANDOM else ORANGE
        alone = getattr(line, what) / unit
        series.append(Series(label, alone, mean, colour, "dot", 3, curve="straight", band=(low, high)))
    series.append(Series("the whole study", across, curve.volumes, BLUE, curve="after", hover=hover))
    return series
