"""Choosing one architecture of a front: within limits, at the knee, or the best in one objective."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.constraints import read_limit
from search_spaces.objectives import Objective
from studies.analysis.standings import Standing, Standings
from studies.stats.pareto import ideal_distances
from studies.study import Study
from studies.study.trial_record import TrialRecord
from surgery.architecture import Architecture
from surgery.architecture.block_times import BlockTimes
from surgery.architecture.costs import cost
from surgery.architecture.metrics import Metric, parse_metric
from surgery.config.problems import Problems, UserError

_LIMIT = re.compile(r"\s*([A-Za-z_][\w@.]*)\s*(<=|>=|<|>)\s*(\S+)\s*")
_EQUAL = re.compile(r"[^<>=]+={1,2}[^<>=]+")
_HOLDS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Limit:
    """A bound such as `metric <= value`, the value in the metric's unit."""

    name: str
    metric: Metric
    comparison: str
    value: float

    def holds(self, record: TrialRecord) -> bool:
        """Return whether a trial meets the limit; False if its value is unknown."""
        measured = self.measure(record)
        if measured is None:
            return False
        return bool(_HOLDS[self.comparison](measured, self.value))

    def measure(self, record: TrialRecord) -> float | None:
        """Return the trial's value, if known; exact costs that the study did not ask for are computed."""
        if self.name in record.metrics:
            return record.metrics[self.name]
        return float(cost(record.build(), self.name)) if self.metric.analytic else None

    def __str__(self) -> str:
        return f"{self.name} {self.comparison} {self.metric.format(self.value)}"


@dataclass(frozen=True)
class Excluded:
    """A better choice that the limits exclude, with one limit that it breaks and its value there.

    Attributes:
        name: of the trial, as it is shown.
    """

    record: TrialRecord
    name: str
    limit: Limit
    value: float

    def __str__(self) -> str:
        return f"{self.name} would be preferred to it, but breaks {self.limit}: {self.measured}"

    @property
    def measured(self) -> str:
        """The metric and its value, with all digits if it would otherwise look like the limit."""
        shown, limit = (self.limit.metric.format(value) for value in (self.value, self.limit.value))
        return f"{self.limit.name} {f'{self.value:,.12g}' if shown == limit else shown}"


@dataclass(frozen=True)
class Choice:
    """A chosen trial.

    Attributes:
        reason: why it was chosen.
        excluded: number of architectures of the front that each limit excludes.
        runner_up: second-best trial within the limits.
        next_better: excluded trial that would be preferred and breaks its limits by least.
    """

    record: TrialRecord
    reason: str
    excluded: dict[str, int]
    runner_up: TrialRecord | None = None
    next_better: Excluded | None = None

    def to_dict(self, standings: Standings) -> dict[str, Any]:
        """Return plain JSON values; `standings` are those of the study."""
        better = self.next_better
        return {
            **standings.to_dict(standings.standing(self.record)),
            "reason": self.reason,
            "excluded": self.excluded,
            "runner_up": self.runner_up.number if self.runner_up else None,
            "next_better": {"number": better.record.number, "limit": str(better.limit), "value": better.value}
            if better
            else None,
        }


@dataclass(frozen=True)
class PickRequest:
    """Options of a choice. They are those of `nas pick`.

    Attributes:
        limits: limits that the choice must meet.
        best: objective in which it must be the best; None: the knee of the front.
        trial: number of the trial to choose, on the front or not, whatever the other options; None: by them.
    """

    limits: tuple[Limit, ...] = ()
    best: str | None = None
    trial: int | None = None

    def choose(self, study: Study, standings: Standings) -> Choice:
        """Choose an architecture of a study.

        Raises:
            UserError: there is no such trial, or nothing to choose from (see `choose`).
        """
        if self.trial is not None:
            return Choice(study.record(self.trial), "asked for", {})
        return choose(standings, self.limits, self.best)


def read_limits(
    texts: Sequence[str], model: Architecture | None = None, times: BlockTimes | None = None
) -> list[Limit]:
    """Parse limits such as `params<=40M`, `cache_bytes@4096<=8MiB` or `val_loss<=4.5`.

    Args:
        texts: the limits.
        model: the pretrained model of the study, of whose costs limits such as `25%` are shares.
        times: of the study's blocks, for shares of a latency.

    Raises:
        UserError: lists every limit that can't be parsed.
    """
    problems = Problems()
    limits = []
    for text in texts:
        match = _LIMIT.fullmatch(text)
        if match is None:
            hint = "write <= or >=: hardly any value is met exactly" if _EQUAL.fullmatch(text) else ""
            problems.add("--limit", text, 'must look like "params<=40M" or "val_loss<=4.5"', hint)
            continue
        name, comparison, value = match.groups()
        try:
            metric, context = parse_metric(name)
            limits.append(Limit(name, metric, comparison, read_limit(metric, context, value, model, times)))
        except UserError as error:  # a share of a latency that is not known
            problems.add("--limit", text, error.problems[0].rule, error.problems[0].hint)
        except ValueError as error:
            problems.add("--limit", text, str(error))
    problems.raise_if_any("can't read the limits")
    return limits


def choose(standings: Standings, limits: Sequence[Limit], best: str | None) -> Choice:
    """Choose the best trial in the objective `best`, else the knee, on the front within the limits.

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
            reach = f"{limit.name} is not known of any: it is no metric of this study"
            if values:
                low, high = (limit.metric.format(value) for value in (min(values), max(values)))
                reach = f"the front goes from {low} to {high}"
            problems.add(
                "--limit", str(limit), f"leaves {len(front) - excluded[str(limit)]} of {len(front)}", reach
            )
        problems.raise_if_any("no architecture of the front is within all limits")
    column = None if best is None else names.index(best)
    scores = _scores(allowed, standings.objectives, column)
    first, *others = sorted(range(len(allowed)), key=lambda index: scores[index])
    chosen, second = allowed[first], allowed[others[0]] if others else None
    if column is None:
        reason = f"knee of {len(allowed)}: nearest to the best of every objective at once"
        if second is not None:
            next_best = f"{standings.names.name(second.record)} at {scores[others[0]]:.3f}"
            reason += f", {scores[first]:.3f} from it; next is {next_best}"
    else:
        reason = f"best {best} of {len(allowed)}"
        if second is not None:
            reason += f", {_lead(standings, chosen, second, column)}"
    better = _next_better(standings, allowed, chosen, limits, column)
    return Choice(chosen.record, reason, excluded, second.record if second else None, better)


def _scores(rows: Sequence[Standing], objectives: Sequence[Objective], column: int | None) -> list[float]:
    """Return scores, lower is better: distances to the ideal point, or the objective in that column."""
    points = [row.record.values for row in rows if row.record.values is not None]
    if column is None:
        return list(map(float, ideal_distances(points, objectives)))
    sign = 1 if objectives[column].direction == "min" else -1
    return [sign * point[column] for point in points]


def _lead(standings: Standings, chosen: Standing, second: Standing, column: int) -> str:
    """Return the lead over the second trial, and whether it exceeds the noise."""
    objective = standings.objectives[column]
    difference, half = standings.gap(chosen, second, column)
    lead = f"by {objective.metric.format(difference)} from {standings.names.name(second.record)}"
    if half is None:
        return lead
    verdict = "within the noise" if difference <= half else "more than the noise"
    return f"{lead}, {verdict} (90 %: ±{objective.metric.format(half)})"


def _next_better(
    standings: Standings, allowed: Sequence[Standing], chosen: Standing, limits: Sequence[Limit],
    column: int | None,
) -> Excluded | None:  # fmt: skip
    """Return the excluded trial that would be preferred and breaks its limits by least; None without one."""
    better: list[tuple[float, Excluded]] = []
    for row in standings.front:
        broken = [limit for limit in limits if not limit.holds(row.record)]
        scores = _scores([row, *allowed], standings.objectives, column)
        if not broken or scores[0] >= scores[1 + allowed.index(chosen)]:
            continue
        excesses = [
            (
                abs(value - limit.value) / max(abs(limit.value), 1e-12),
                Excluded(row.record, standings.names.name(row.record), limit, value),
            )
            for limit in broken
            if (value := limit.measure(row.record)) is not None
        ]
        if excesses:
            better.append(max(excesses, key=lambda item: item[0]))
    return min(better, key=lambda item: item[0])[1] if better else None
