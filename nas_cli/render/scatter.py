"""Scatter plot of a study in the terminal: second objective on x, first on y, the front highlighted."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import TYPE_CHECKING

from rich.text import Text

from nas_cli.render.marks import mark_legend, signs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search_spaces import Objective
    from studies.analysis.marks import Marks
    from studies.study.trial_record import TrialRecord


def scatter(
    records: Sequence[TrialRecord],
    front: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    *,
    width: int,
    height: int,
    marks: Marks | None = None,
) -> Text:
    """Plot the first objective over the second; needs at least two objectives.

    KL divergences have a logarithmic axis.
    Marks: `•` trained, `◆` on the front (green), `B` a baseline; dominated trials are grey. The knee and the
    picks have their own, if the study's `marks` are given.
    """
    import plotext

    up, along = objectives[0], objectives[1]
    scale_up, scale_along = _scale(up), _scale(along)
    on_front = {record.number for record in front}
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for record in records:
        if record.values is None or record.state != "trained":
            continue
        sign = "" if marks is None else signs(record, marks)[:1]
        mark = sign or ("B" if record.baseline else "◆" if record.number in on_front else "•")
        colour = "green+" if record.number in on_front else "gray"
        groups.setdefault((mark, colour), []).append(
            (scale_along(record.values[1]), scale_up(record.values[0]))
        )
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    for (mark, colour), points in sorted(groups.items(), key=lambda item: item[0][1] == "green+"):
        plotext.scatter([x for x, _ in points], [y for _, y in points], marker=mark, color=colour)
    every = [point for points in groups.values() for point in points]
    if every:
        _ticks(plotext.xticks, [x for x, _ in every], along, 5)
        _ticks(plotext.yticks, [y for _, y in every], up, 4)
    plotext.xlabel(f"{along.name} ({along.direction})")
    plotext.ylabel(f"{up.name} ({up.direction})")
    legend = Text.from_markup("       [green]◆ on the front[/]  [dim]• dominated[/]  B baseline")
    if marks is not None and (more := mark_legend(records, marks)):
        legend.append(f"  {more}")
    return Text.assemble(Text.from_ansi(plotext.build()), "\n", legend)


def _scale(objective: Objective) -> Callable[[float], float]:
    """Return where a value of an objective is drawn: KL divergences by their logarithms."""
    from studies.reporting.front_plot import LEAST_KL

    if objective.name != "kl":
        return lambda value: value
    return lambda value: log10(max(value, LEAST_KL))


def _ticks(put, values: list[float], objective: Objective, number: int) -> None:  # type: ignore[no-untyped-def]
    """Set ticks formatted by the metric (1.1M, 8.0 MiB) instead of as raw floats."""
    low, high = min(values), max(values)
    ticks = [low + (high - low) * index / (number - 1) for index in range(number)] if high > low else [low]
    if objective.name == "kl":
        powers = [float(power) for power in range(ceil(low), floor(high) + 1)]
        ticks = powers if len(powers) > 1 else [low, high]
        put(ticks, [f"{10**tick:.2g}" if tick < 1 else f"{10**tick:g}" for tick in ticks])
        return
    put(ticks, [objective.metric.format(tick) for tick in ticks])
