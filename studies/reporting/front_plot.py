"""Plot of a study's front."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.objectives import Objective
from search_spaces.short_labels import short_labels, shorten
from studies.analysis.standings import Standings
from studies.reporting.drawing import draw
from studies.reporting.figure import GREEN, GREY, PURPLE, Axis, Figure, Panel, Series
from studies.stats.pareto import front_indices
from studies.study.trial_record import DONE, TrialRecord

if TYPE_CHECKING:
    from studies.study import Study


MOST_LABELS = 8  # baselines whose names a plot has room for
LEAST_KL = 1e-4  # nats/token: where the logarithmic axis of KL divergences ends; the original itself has 0


def plot_front(study: Study, standings: Standings, path: Path) -> None:
    """Plot the front among all trained architectures; one panel per pair of objectives.

    Bars are 90 % intervals of the means of architectures on or near the front, if there are replicates.

    Raises:
        UserError: the path can't be written or has an unknown extension.
    """
    records = [record for record in study.records() if record.state == DONE and record.values]
    objectives = study.space.objectives
    panels = [
        Panel(_axis(objectives[along]), _axis(objectives[up]), _series(study, records, standings, along, up))
        for along, up in _pairs(objectives) or [(0, 0)]
    ]
    what = f"{_done_word(study)} {'architectures' if study.space.replacements is None else 'designs'}"
    title = f"{study.name}: {len(standings.front)} of {len(records)} {what} are on the front"
    draw(Figure(title, panels), path)


def _done_word(study: Study) -> str:
    return "trained" if study.space.replacements is None else "measured"


def _pairs(objectives: Sequence[Objective]) -> list[tuple[int, int]]:
    """Return (x, y) columns of the panels: the first objective is the y axis of every other one."""
    if len(objectives) == 1:
        return []
    return [(along, 0) for along in range(1, len(objectives))] + [
        (along, up) for up, along in combinations(range(1, len(objectives)), 2)
    ]


def _axis(objective: Objective) -> Axis:
    label = f"{objective.name} ({objective.metric.unit})"
    if objective.name == "kl":
        label = f"{label}, from {LEAST_KL:g} on"
        return Axis(label, ".3~g", ticks=lambda value: f"{value:.3g}", log=True)
    if objective.measured:
        return Axis(label, ".4~f", ticks=lambda value: f"{value:.3g}")
    return Axis(label, ".4~s", ticks=objective.metric.format)


def _series(
    study: Study, records: list[TrialRecord], standings: Standings, along: int, up: int
) -> list[Series]:
    on_front = {row.record.number for row in standings.front}
    front = [record for record in records if record.number in on_front]
    rest = [record for record in records if record.number not in on_front]
    baselines = [record for record in records if record.baseline]
    replacements = study.space.replacements
    short = {} if replacements is None else short_labels(replacements)

    def shown(record: TrialRecord) -> list[float]:
        return [
            max(value, LEAST_KL) if item.name == "kl" else value
            for item, value in zip(standings.objectives, record.values or (), strict=True)
        ]

    def points(
        name: str, chosen: list[TrialRecord], colour: str, size: float, labels: Sequence[str] | None = None
    ) -> Series:
        table = [shown(record) for record in chosen if record.values]
        dots = labels is None
        return Series(
            name, [values[along] for values in table], [values[up] for values in table], colour,
            "dot" if dots else "square", size, labels=labels or (),
            x_error=_error(standings, chosen, along) if dots else None,
            y_error=_error(standings, chosen, up) if dots else None,
            hover=[_hover(standings, record) for record in chosen],
        )  # fmt: skip

    series = [points(_done_word(study), rest, GREY, 4), points("on the front", front, GREEN, 6)]
    pair = (standings.objectives[along], standings.objectives[up])
    both = [(shown(record)[along], shown(record)[up]) for record in front]
    steps = sorted(both[index] for index in front_indices(both, pair)) if along != up else []
    if len(steps) > 1:
        x, y = zip(*steps, strict=True)
        # towards what is dominated
        series.append(Series("", x, y, GREEN, curve="after" if pair[0].direction == "min" else "before"))
    if baselines:
        labels = [shorten(f"{item.baseline} ", short).strip() for item in baselines]
        if len(labels) > MOST_LABELS:
            labels = []
        series.append(points("baseline", baselines, PURPLE, 7, labels))
    return series


def _error(
    standings: Standings, records: list[TrialRecord], column: int
) -> tuple[list[float], list[float]] | None:
    """Return the half intervals of architectures that are or may be on the front; None without any."""
    shown = {row.record.number: row.half[column] for row in standings.shown}
    halves = [shown.get(record.number) for record in records]
    if not any(halves):
        return None
    lengths = [nan if half is None else half for half in halves]
    return lengths, lengths


def _hover(standings: Standings, record: TrialRecord) -> str:
    row = standings.standing(record)
    text = f"{record.name}<br>{record.line}"
    if row.p_front is None:
        return text
    return f"{text}<br>{row.runs} runs, P(front) {row.p_front:.2f}"
