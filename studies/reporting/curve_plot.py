"""Plot of the loss curves of a study's trials."""

from __future__ import annotations

from collections.abc import Sequence

from studies.analysis.standings import Standings
from studies.reporting.figure import BLUE, GREY, ORANGE, Axis, Figure, Panel, Series
from studies.reporting.ticks import plain_ticks
from studies.study import Study
from studies.study.trial_record import DONE, FAILED, PAUSED, RUNNING, TrialRecord
from surgery.config.quantities import format_count

MOST_CURVES = 40  # those on the front, baselines, running and paused ones first, then the newest others
POINTS = 30  # of a curve, each the mean of its neighbours


def curves_figure(study: Study, standings: Standings) -> Figure | None:
    """Return the training loss over tokens of the trials; None without a curve.

    Paused and running trials have dotted lines, and a ring where they are.
    """
    front = {row.record.number for row in standings.front}
    series, names = [], standings.names
    for record in _chosen(study.records(), front):
        x, y = thinned(study.curve(record.number))
        if len(x) < 2:
            continue
        name, colour = _style(record, front)
        unfinished = record.state in (PAUSED, RUNNING)
        hover = [f"{names.name(record)}: {loss:.3f}" for loss in y]
        hover[-1] += f"<br>{names.design(record)}{', paused' if record.state == PAUSED else ''}"
        series.append(
            Series(
                name, x, y, colour, curve="straight", dash="dot" if unfinished else "solid", hover=hover
            )
        )  # fmt: skip
        label = f"#{record.number}" if colour != GREY or unfinished else ""
        series.append(
            Series(
                "",
                x[-1:],
                y[-1:],
                colour,
                "ring" if unfinished else "dot",
                4,
                labels=[label],
                hover=hover[-1:],
            )
        )
    if not series:
        return None
    low = min(min(item.y) for item in series)
    start = sorted(item.y[min(2, len(item.y) - 1)] for item in series if item.curve)
    # the first steps from random weights would squeeze the rest
    high = max(start[len(start) // 2], low + 1e-3)
    across = Axis("tokens trained on", ".4~s", ticks=plain_ticks(format_count), low=0)
    up = Axis("training loss (nats/token)", ".3~f", low=low - 0.05 * (high - low), high=high)
    return Figure(f"{study.name}: loss curves", [Panel(across, up, series)], width=5, height=4)


def thinned(curve: Sequence[dict[str, float]], most: int = POINTS) -> tuple[list[float], list[float]]:
    """Return tokens and mean losses of at most `most` stretches of a curve, the last point last."""
    points = [(point["tokens"], point["loss"]) for point in curve if "loss" in point]
    count = min(most, len(points))
    x, y = [], []
    for index in range(count):
        stretch = points[index * len(points) // count : (index + 1) * len(points) // count]
        x.append(float(stretch[-1][0]))
        y.append(sum(loss for _, loss in stretch) / len(stretch))
    return x, y


def _chosen(records: Sequence[TrialRecord], front: set[int]) -> list[TrialRecord]:
    trained = [record for record in records if record.state in (DONE, PAUSED, RUNNING, FAILED)]
    first = [
        record
        for record in trained
        if record.number in front or record.baseline or record.state in (PAUSED, RUNNING)
    ]
    numbers = {record.number for record in first}
    others = [record for record in reversed(trained) if record.number not in numbers]
    kept = (first + others)[:MOST_CURVES]
    return sorted(kept, key=lambda record: (record.number in front, record.number))  # the front on top


def _style(record: TrialRecord, front: set[int]) -> tuple[str, str]:
    """Return the name in the legend, and the colour."""
    if record.number in front:
        return "on the front", BLUE
    if record.baseline:
        return "baseline", ORANGE
    names = {PAUSED: "paused", RUNNING: "running", FAILED: "failed"}
    return names.get(record.state, record.word), GREY
