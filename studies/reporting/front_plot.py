"""Plot of a study's front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search_spaces.objectives import Objective
from studies.analysis.marks import KNEE, PICKED, Marks
from studies.analysis.standings import RELATIVE, Standings
from studies.reporting.drawing import draw
from studies.reporting.figure import BLACK, BLUE, GREY, ORANGE, Axis, Figure, Marker, Panel, Series
from studies.reporting.ticks import plain_ticks
from studies.stats.pareto import front_indices
from studies.stats.seed_noise import Array
from studies.study.trial_record import DONE, PAUSED, TrialRecord

if TYPE_CHECKING:
    from studies.study import Study

MOST_LABELS = 8  # baselines whose names a plot has room for
LEAST_KL = 1e-4  # nats/token: where the logarithmic axis of KL divergences ends; the original itself has 0
WIDE = 10  # costs that differ by this factor are on a logarithmic axis
CROWD = 150  # points from which on they are smaller
FEWEST = 5  # results from which an axis may be cut
FENCE = 3.0  # interquartile ranges above the upper quartile, beyond which an outlier is (Tukey 1977)
MARKS: tuple[tuple[str, Marker, float], ...] = ((KNEE, "star", 7), (PICKED, "frame", 8))  # shape, size
_NUMBER = -1  # in place of a column: the number of the trial, against which a single objective is drawn


def plot_front(study: Study, standings: Standings, path: Path) -> None:
    """Draw `front_figure` into a file.

    Raises:
        UserError: the path can't be written or has an unknown extension.
    """
    draw(front_figure(study, standings), path)


def front_figure(study: Study, standings: Standings) -> Figure:
    """Return the plot of the front among all trained architectures; one panel per pair of objectives.

    Bars are 90 % intervals of the means of architectures on or near the front, if there are replicates.
    Points beyond an axis are triangles at its end. Paused runs have the loss of their last rung.
    """
    records = [record for record in study.records() if record.state == DONE and record.values]
    objectives = study.space.objectives
    panels = [
        _FrontPanel(study, records, standings, along, up).panel()
        for along, up in _pairs(objectives) or [(_NUMBER, 0)]
    ]
    what = f"{study.space.done_word} {'architectures' if study.space.replacements is None else 'designs'}"
    title = f"{study.name}: {len(standings.front)} of {len(records)} {what} are on the front"
    if standings.noise is not None:
        title += "; bars: 90 % intervals"
    return Figure(title, panels)


def _pairs(objectives: Sequence[Objective]) -> list[tuple[int, int]]:
    """Return (x, y) columns of the panels: the first objective is the y axis of every other one."""
    if len(objectives) == 1:
        return []
    return [(along, 0) for along in range(1, len(objectives))] + [
        (along, up) for up, along in combinations(range(1, len(objectives)), 2)
    ]


class _FrontPanel:
    """The panel of two objectives."""

    def __init__(
        self, study: Study, records: list[TrialRecord], standings: Standings, along: int, up: int
    ) -> None:
        self.study, self.records, self.standings = study, records, standings
        self.columns = (along, up)
        self.on_front = {row.record.number for row in standings.front}
        self.paused = [record for record in study.records() if record.state == PAUSED]
        shown = {row.record.number for row in standings.shown}
        self.axes = tuple(self._axis(column, shown) for column in self.columns)

    def panel(self) -> Panel:
        """Return the panel: trained, paused, front, baselines, knee and pick."""
        front = [record for record in self.records if record.number in self.on_front]
        rest = [record for record in self.records if record.number not in self.on_front]
        baselines = [record for record in self.records if record.baseline]
        named = [self.standings.names.name(record) for record in baselines]
        if len(named) > MOST_LABELS:
            named = []
        known = {record.number for record in baselines} if named else set()
        numbers = ["" if record.number in known else f"#{record.number}" for record in front]
        series = [
            *self._points(
                self.study.space.done_word, rest, GREY, "dot", 3.5 if len(rest) < CROWD else 2.5, bars=True
            ),
            *self._points("paused, loss so far", self.paused, GREY, "ring", 4, self._beyond()),
            *self._points("on the front", front, BLUE, "dot", 4.5, numbers, bars=True),
            *self._staircase(front),
            *self._points("baseline", baselines, ORANGE, "square", 6.5, named),
        ]
        marks = Marks.of(self.study, self.standings)
        for word, shape, size in MARKS:
            marked = [item for item in (*self.records, *self.paused) if word in marks.words(item)]
            series += self._points(word, marked, BLACK, shape, size)
        return Panel(self.axes[0], self.axes[1], series)

    def _axis(self, column: int, shown: set[int]) -> Axis:
        """Return an axis on which the front, and what is near it, has room."""
        if column == _NUMBER:
            return Axis("trial")
        objective = self.standings.objectives[column]
        label = f"{objective.name} ({objective.metric.unit})"
        if objective.name == "kl":
            label = f"{label}, from {LEAST_KL:g} on"
            return Axis(label, ".3~g", ticks=lambda value: f"{value:.3g}", log=True)
        values = np.array([self._value(record, column) for record in self.records])
        kept = np.array([self._value(item, column) for item in self.records if item.number in shown])
        axis = Axis(label, ".4~f", ticks=lambda value: f"{value:.4g}")
        if not objective.measured:
            base = 2 if objective.metric.unit == "bytes" else 10
            axis = Axis(label, ".4~s", ticks=plain_ticks(objective.metric.format), base=base)
            if len(values) and values.min() > 0 and values.max() >= WIDE * values.min():
                return replace(axis, log=True)
        paused = np.array([self._value(item, column) for item in self.paused])
        return _fenced(axis, values, kept, paused, objective.direction)

    def _value(self, record: TrialRecord, column: int) -> float:
        """Return a trial's value: of a paused one its cost, or what was measured at its last rung."""
        if column == _NUMBER:
            return record.number
        objective = self.standings.objectives[column]
        if record.values is not None:
            value = record.values[column]
        elif not objective.measured:
            value = self.study.space.cost(record.build(), objective.name)
        else:
            known = {"val_loss": record.rungs[-1] if record.rungs else nan, **record.measured}
            value = known.get(objective.name, nan)
        return max(value, LEAST_KL) if objective.name == "kl" else value

    def _points(
        self, name: str, chosen: list[TrialRecord], colour: str, marker: Marker, size: float,
        labels: Sequence[str] = (), *, bars: bool = False,
    ) -> list[Series]:  # fmt: skip
        """Return the points in one series, and those beyond an axis in one per direction."""
        groups: dict[Marker, list[int]] = {marker: []}
        positions = [[self._value(record, column) for column in self.columns] for record in chosen]
        for index, position in enumerate(positions):
            beyond = marker
            for number, (axis, directions) in enumerate(
                zip(self.axes, (("left", "right"), ("down", "up")), strict=True)
            ):
                if axis.high is not None and position[number] > axis.high:
                    position[number], beyond = axis.high, directions[1]  # type: ignore[assignment]
                elif axis.low is not None and position[number] < axis.low:
                    position[number], beyond = axis.low, directions[0]  # type: ignore[assignment]
            if isfinite(sum(position)):
                # a star or a frame at the edge stays what it is; others point to where they are
                if beyond != marker and marker == "ring":
                    beyond = f"open {beyond}"  # type: ignore[assignment]
                groups.setdefault(marker if marker in ("star", "frame") else beyond, []).append(index)
        every = []
        for shape, indices in groups.items():
            inside = shape == marker
            records = [chosen[index] for index in indices]
            if not records:
                continue
            every.append(
                Series(
                    self._name(name, marker, inside=inside, alone=not groups[marker]),
                    [positions[index][0] for index in indices], [positions[index][1] for index in indices],
                    colour, shape, size if inside else 5,
                    labels=[self._label(labels[index], chosen[index], inside) for index in indices]
                    if labels else (),
                    x_error=self._error(records, self.columns[0]) if bars and inside else None,
                    y_error=self._error(records, self.columns[1]) if bars and inside else None,
                    hover=[self._hover(record) for record in records],
                )
            )  # fmt: skip
        return every

    def _beyond(self) -> list[str]:
        """Return labels of the paused runs, which only those have that lie beyond the axes."""
        beyond = [
            any(
                not (axis.low or -np.inf) <= self._value(record, column) <= (axis.high or np.inf)
                for axis, column in zip(self.axes, self.columns, strict=True)
            )
            for record in self.paused
        ]
        few = sum(beyond) <= MOST_LABELS
        return [
            f"#{record.number} paused" if out and few else ""
            for record, out in zip(self.paused, beyond, strict=True)
        ]

    def _name(self, name: str, marker: Marker, *, inside: bool, alone: bool) -> str:
        """Return the name of points in the legend; triangles of a series that also has others have none."""
        if marker == "ring" and not inside:
            return "paused, beyond the axis"
        return name if inside or alone else ""

    def _label(self, text: str, record: TrialRecord, inside: bool) -> str:
        """Return a label; beyond an axis with the value that the axis does not show."""
        if inside or not text:
            return text
        beyond = []
        for axis, column in zip(self.axes, self.columns, strict=True):
            if column == _NUMBER:
                continue
            value = self._value(record, column)
            if not (axis.low or -np.inf) <= value <= (axis.high or np.inf):
                beyond.append(self.standings.objectives[column].metric.format(value))
        return f"{text}: {', '.join(beyond)}"

    def _staircase(self, front: list[TrialRecord]) -> list[Series]:
        """Return the border of what the front dominates in these two objectives."""
        along, up = self.columns
        if along == _NUMBER:
            return []
        pair = (self.standings.objectives[along], self.standings.objectives[up])
        both = [(self._value(record, along), self._value(record, up)) for record in front]
        steps = sorted(both[index] for index in front_indices(both, pair))
        if len(steps) < 2:
            return []
        x, y = zip(*steps, strict=True)
        # towards what is dominated
        return [Series("", x, y, BLUE, curve="after" if pair[0].direction == "min" else "before")]

    def _error(self, records: list[TrialRecord], column: int) -> tuple[list[float], list[float]] | None:
        """Return half intervals of architectures that are or may be on the front; None without any."""
        if column == _NUMBER:
            return None
        shown = {row.record.number: row.half[column] for row in self.standings.shown}
        halves = [shown.get(record.number) for record in records]
        if not any(halves):
            return None
        above = [nan if half is None else half for half in halves]
        if self.standings.objectives[column].name not in RELATIVE:
            return above, above
        values = [self._value(record, column) for record in records]
        # as far below by its ratio as the upper end is above
        return [value * half / (value + half) for value, half in zip(values, above, strict=True)], above

    def _hover(self, record: TrialRecord) -> str:
        row = self.standings.standing(record)
        parts = [self.standings.names.name(record), self.standings.names.design(record)]
        for column, objective in enumerate(self.standings.objectives):
            value, half = self._value(record, column), row.half[column]
            if record.values is not None and objective.name == "kl":
                value = record.values[column]
            spread = "" if half is None else f" ±{objective.metric.format(half)}"
            unit = "" if objective.metric.unit == "bytes" else f" {objective.metric.unit}"
            parts.append(f"{objective.name}: {objective.metric.format(value)}{spread}{unit}")
        if record.state == PAUSED:
            parts.append(f"paused at rung {len(record.rungs)}")
        if row.p_front is not None:
            parts.append(f"{row.runs} runs, P(front) {row.p_front:.2f}")
        return "<br>".join(parts)


def _fenced(axis: Axis, values: Array, kept: Array, paused: Array, direction: str) -> Axis:
    """Return the axis cut on its worse side where outliers, or paused runs, would squeeze the rest.

    The values that are `kept` are never cut off.
    """
    if len(values) < FEWEST:
        return axis
    sign = 1 if direction == "min" else -1
    worse = sign * values
    low, high = np.quantile(worse, [0.25, 0.75])
    fence = high + FENCE * (high - low)
    if len(kept):
        fence = max(fence, float((sign * kept).max()))
    beyond = np.concatenate([worse, sign * paused[np.isfinite(paused)]])
    if beyond.max() <= fence:
        return axis
    inside = worse[worse <= fence]
    limit = sign * float(inside.max() + 0.12 * np.ptp(inside))
    return replace(axis, high=limit) if sign > 0 else replace(axis, low=limit)
