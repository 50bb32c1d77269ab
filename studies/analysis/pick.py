"""Choosing one architecture of a front: under limits, at the knee, or the best in one metric."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.objectives import Objective
from studies.analysis.standings import Standing, Standings
from studies.stats.pareto import ideal_distances
from studies.study.trial_record import TrialRecord
from surgery.architecture.costs import Metric, cost, parse_metric
from surgery.config.problems import Problems, UserError

_LIMIT = re.compile(r"\s*([A-Za-z_][\w@.]*)\s*(<=|>=|=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Limit:
    """`metric <= value` or `metric >= value`, the value in the metric's unit."""

    name: str
    metric: Metric
    comparison: str
    value: float

    def holds(self, record: TrialRecord) -> bool:
        measured = self.measure(record)
        if measured is None:
            return False
        return measured <= self.value if self.comparison == "<=" else measured >= self.value

    def measure(self, record: TrialRecord) -> float | None:
        """The trial's value; costs are computed even where the study did not ask for them."""
        if self.name in record.metrics:
            return record.metrics[self.name]
        return float(cost(record.build(), self.name)) if self.metric.analytic else None

    def __str__(self) -> str:
        return f"{self.name} {self.comparison} {self.metric.format(self.value)}"


@dataclass(frozen=True)
class Excluded:
    """A better choice that the limits exclude: what the first limit it breaks would have to become."""

    record: TrialRecord
    limit: Limit
    value: float

    def __str__(self) -> str:
        return f"{self.record.name} would win, but {self.limit} excludes it: {self.told}"

    @property
    def told(self) -> str:
        """Its value, with all its digits where it would look like the limit otherwise."""
        shown, limit = (self.limit.metric.format(value) for value in (self.value, self.limit.value))
        return f"{self.limit.name} {f'{self.value:,.12g}' if shown == limit else shown}"


@dataclass(frozen=True)
class Choice:
    """The chosen trial, why, how many of the front each limit excluded, the nearest better one of these."""

    record: TrialRecord
    reason: str
    excluded: dict[str, int]
    runner_up: TrialRecord | None = None
    next_better: Excluded | None = None


def read_limits(texts: Sequence[str]) -> list[Limit]:
    """`params<=40M`, `cache_bytes@4096<=8MiB`, `val_loss<=4.5`.

    Raises:
        UserError: every limit that can't be read.
    """
    problems = Problems()
    limits = []
    for text in texts:
        match = _LIMIT.fullmatch(text)
        if match is None:
            problems.add("--limit", text, 'must look like "params<=40M" or "val_loss<=4.5"')
            continue
        name, comparison, value = match.groups()
        try:
            metric, _ = parse_metric(name)
            if comparison == "=":
                comparison = "<=" if metric.better == "min" else ">="
            limits.append(Limit(name, metric, comparison, metric.parse(value)))
        except ValueError as error:
            problems.add("--limit", text, str(error))
    problems.raise_if_any("can't read the limits")
    return limits


def choose(standings: Standings, limits: Sequence[Limit], best: str | None) -> Choice:
    """The best trial in the objective `best`, else the knee, among those of the front within the limits.

    Raises:
        UserError: the front is empty, nothing is within the limits, or `best` is no objective.
    """
    problems = Problems()
    names = [objective.name for objective in standings.objectives]
    if best is not None and best not in names:
        problems.add("--best", best, f"must be an objective of the study: {', '.join(names)}")
    problems.raise_if_any("can't choose by that")
    front = standings.front
    if not front:
        raise UserError("the study has no trained architecture yet")
    allowed = [row for row in front if all(limit.holds(row.record) for limit in limits)]
    excluded = {str(limit): sum(not limit.holds(row.record) for row in front) for limit in limits}
    if not allowed:
        for limit in limits:
            values = [value for row in front if (value := limit.measure(row.record)) is not None]
            low, high = (limit.metric.format(value) for value in (min(values), max(values)))
            reach = f"the front goes from {low} to {high}"
            problems.add(
                "--limit", str(limit), f"leaves {len(front) - excluded[str(limit)]} of {len(front)}", reach
            )
        problems.raise_if_any("no architecture of the front is within all limits")
    place = None if best is None else names.index(best)
    scores = _scores(allowed, standings.objectives, place)
    first, *others = sorted(range(len(allowed)), key=lambda index: scores[index])
    chosen, second = allowed[first], allowed[others[0]] if others else None
    if place is None:
        reason = f"knee of {len(allowed)}: nearest to the best of every objective at once"
        if second is not None:
            next_best = f"{second.record.name} at {scores[others[0]]:.3f}"
            reason += f", {scores[first]:.3f} from it; next is {next_best}"
    else:
        reason = f"best {best} of {len(allowed)}"
        if second is not None:
            reason += f", {_lead(standings, chosen, second, place)}"
    better = _next_better(front, allowed, chosen, standings.objectives, limits, place)
    return Choice(chosen.record, reason, excluded, second.record if second else None, better)


def _scores(rows: Sequence[Standing], objectives: Sequence[Objective], place: int | None) -> list[float]:
    """Lower is better: the distance to the ideal corner, or the objective in that place."""
    points = [row.record.values for row in rows if row.record.values is not None]
    if place is None:
        return list(map(float, ideal_distances(points, objectives)))
    sign = 1 if objectives[place].direction == "min" else -1
    return [sign * point[place] for point in points]


def _lead(standings: Standings, chosen: Standing, second: Standing, place: int) -> str:
    """By how much, and whether that is more than noise."""
    objective = standings.objectives[place]
    apart, half = standings.gap(chosen, second, place)
    told = f"by {objective.metric.format(apart)} from {second.record.name}"
    if half is None:
        return told
    verdict = "within the noise" if apart <= half else "more than the noise"
    return f"{told}, {verdict} (90 %: ±{objective.metric.format(half)})"


def _next_better(
    front: Sequence[Standing], allowed: Sequence[Standing], chosen: Standing,
    objectives: Sequence[Objective], limits: Sequence[Limit], place: int | None,
) -> Excluded | None:  # fmt: skip
    """Of the excluded ones that would win if they were allowed, the one that breaks its limits by least."""
    found: list[tuple[float, Excluded]] = []
    for row in front:
        broken = [limit for limit in limits if not limit.holds(row.record)]
        scores = _scores([row, *allowed], objectives, place)
        if not broken or scores[0] >= scores[1 + allowed.index(chosen)]:
            continue
        excesses = [
            (abs(value - limit.value) / max(abs(limit.value), 1e-12), Excluded(row.record, limit, value))
            for limit in broken
            if (value := limit.measure(row.record)) is not None
        ]
        if excesses:
            found.append(max(excesses, key=lambda item: item[0]))
    return min(found, key=lambda item: item[0])[1] if found else None
