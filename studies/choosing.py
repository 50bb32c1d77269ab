"""Choosing one architecture of a front: under limits, at the knee, or the best in one metric."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.objectives import Objective
from studies.front import knee_index
from studies.records import TrialRecord
from surgery.costs import Metric, cost, parse_metric
from surgery.problems import Problems, UserError

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
class Choice:
    """The chosen trial, why, and how many of the front each limit excluded."""

    record: TrialRecord
    reason: str
    excluded: dict[str, int]


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


def choose(
    front: Sequence[TrialRecord], objectives: Sequence[Objective], limits: Sequence[Limit], best: str | None
) -> Choice:
    """The best trial in the objective `best`, else the knee, among those within the limits.

    Raises:
        UserError: the front is empty, nothing is within the limits, or `best` is no objective.
    """
    problems = Problems()
    names = [objective.name for objective in objectives]
    if best is not None and best not in names:
        problems.add("--best", best, f"must be an objective of the study: {', '.join(names)}")
    problems.raise_if_any("can't choose by that")
    if not front:
        raise UserError("the study has no trained architecture yet")
    allowed = [record for record in front if all(limit.holds(record) for limit in limits)]
    excluded = {str(limit): sum(not limit.holds(record) for record in front) for limit in limits}
    if not allowed:
        for limit in limits:
            values = [value for record in front if (value := limit.measure(record)) is not None]
            low, high = (limit.metric.format(value) for value in (min(values), max(values)))
            reach = f"the front goes from {low} to {high}"
            problems.add(
                "--limit", str(limit), f"leaves {len(front) - excluded[str(limit)]} of {len(front)}", reach
            )
        problems.raise_if_any("no architecture of the front is within all limits")
    points = [record.values for record in allowed if record.values is not None]
    if best is not None:
        column = names.index(best)
        sign = 1 if objectives[column].direction == "min" else -1
        index = min(range(len(points)), key=lambda item: sign * points[item][column])
        reason = f"best {best} of {len(allowed)}"
    else:
        index = knee_index(points, objectives)
        reason = f"knee of {len(allowed)}: nearest to the best of every objective at once"
    return Choice(allowed[index], reason, excluded)
