"""Plot of the hypervolume over tokens and time, of the study and of each sampler's trials alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.reporting.drawing import draw
from studies.reporting.figure import GREEN, GREY, PURPLE, Axis, Figure, Panel, Series
from studies.study.trial_record import RANDOM
from surgery.config.quantities import format_count

if TYPE_CHECKING:
    from studies.analysis.hypervolume_growth import Growth

# attribute of the growth: its axis, and the unit of the axis
_ACROSS = {
    "tokens": (Axis("text trained on (tokens)", ".4~s", ticks=format_count, low=0), 1),
    "seconds": (Axis("training time, over all workers (minutes)", ".4~g", low=0), 60),
}
_UP = Axis("hypervolume (share of the box)", ".3~f", low=0)


def plot_growth(name: str, curve: Growth, path: Path) -> None:
    """Plot the growth of a study's hypervolume.

    Raises:
        UserError: the path can't be written or has an unknown extension.
    """
    panels = [Panel(axis, _UP, _series(curve, what, unit)) for what, (axis, unit) in _ACROSS.items()]
    draw(Figure(f"{name}: what its front dominates", panels, width=5, height=4), path)


def _series(curve: Growth, what: str, unit: int) -> list[Series]:
    numbers = [f"#{number}" for number in curve.numbers]
    across = getattr(curve, what) / unit
    series = [Series("the whole study", across, curve.volumes, GREEN, curve="after", hover=numbers)]
    for sampler, line in curve.alone.items():
        mean, low, high = line.volumes
        label = f"{sampler} trials alone (mean and 90 % over orders)"
        colour = GREY if sampler == RANDOM else PURPLE
        across = getattr(line, what) / unit
        series.append(Series(label, across, mean, colour, "dot", curve="straight", band=(low, high)))
    return series
