"""Choosing one architecture of a front: within limits, at the knee, or the best in one objective."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search_spaces.objectives import Objective
from studies.analysis.limits import Limit
from studies.analysis.standings import Standing, Standings
from studies.stats.pareto import ideal_distances
from studies.study import Study
from studies.study.picks import Pick
from studies.study.trial_record import (
    DUPLICATED,
    FAILED,
    INFEASIBLE,
    PAUSED,
    RUNNING,
    TrialRecord,
)
from surgery.config.paths import expand
from surgery.config.problems import Problem, Problems, UserError, nearest


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
        warnings: what its numbers can't say, such as those of a paused trial.
    """

    record: TrialRecord
    reason: str
    excluded: dict[str, int]
    runner_up: TrialRecord | None = None
    next_better: Excluded | None = None
    warnings: tuple[str, ...] = ()

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
        trial: number of the trial to choose, on the front or not, without limits and `best`.
    """

    limits: tuple[Limit, ...] = ()
    best: str | None = None
    trial: int | None = None

    def __post_init__(self) -> None:
        """Refuse a trial together with what would choose another one."""
        assert self.trial is None or not (self.limits or self.best), "one trial leaves nothing to choose"

    def choose(self, study: Study, standings: Standings) -> Choice:
        """Choose an architecture of a study.

        Raises:
            UserError: there is no such trial, it failed or has not started, or there is nothing to choose
                from (see `choose`).
        """
        if self.trial is not None:
            return _asked_for(study, standings, self.trial)
        return choose(standings, self.limits, self.best)

    def record_of(
        self, choice: Choice, standings: Standings, output: Path | None = None, *, portable: bool = False
    ) -> Pick:
        """Return what a study keeps of a choice (see `store_pick`).

        Args:
            choice: of `choose`.
            standings: of the study.
            output: file that the architecture was written to; None: standard output.
            portable: whether the file has no backbone.
        """
        return Pick(
            trial=choice.record.number,
            name=standings.names.name(choice.record),
            hash=choice.record.hash,
            best=self.best,
            asked=self.trial is not None,
            limits=tuple(map(str, self.limits)),
            reason=choice.reason,
            at=datetime.now(UTC).isoformat(timespec="microseconds"),
            output=None if output is None else str(expand(output).absolute()),
            machine=socket.gethostname(),
            portable=portable,
            bounds=tuple(limit.value for limit in self.limits),
        )


def knee(standings: Standings) -> TrialRecord | None:
    """Return the knee of the front, nearest to the best of every objective at once; None without a front."""
    return choose(standings, (), None).record if standings.front else None


def choose(standings: Standings, limits: Sequence[Limit], best: str | None) -> Choice:
    """Choose the best trial in the objective `best`, else the knee, on the front within the limits.

    Raises:
        UserError: the front is empty, nothing is within the limits, or `best` is no objective.
    """
    problems = Problems()
    names = [objective.name for objective in standings.objectives]
    if best is not None and best not in names:
        rule = f"must be an objective of the study: {', '.join(names)}"
        problems.add("--best", best, rule, nearest(best, names))
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


def _asked_for(study: Study, standings: Standings, number: int) -> Choice:
    """Return a trial that was asked for; of a replicate or duplicate, the trial that has its architecture."""
    record, reason = study.record(number), "asked for by its number"
    problem = None
    if record.state == FAILED:
        hint = f"nas front {study.name} has those that were trained to the end"
        problem = Problem("--trial", number, f"failed: {record.reason}", hint)
    elif record.architecture is None:
        hint = "wait until a worker has started it"
        problem = Problem("--trial", number, "has not started and has no architecture yet", hint)
    if problem is not None:
        raise UserError("can't pick that trial", [problem])
    if record.repeat_of is not None or record.state == DUPLICATED:
        same = [item for item in study.records() if item.hash == record.hash and item.state != DUPLICATED]
        first = next((item for item in same if item.repeat_of is None), record)
        if first is not record:
            record, reason = first, f"asked for as #{number}, which has the same architecture"
    name, proxy = standings.names.name(record), study.space.proxy
    warnings = []
    if record.state == PAUSED:
        share = f"{proxy.rungs[len(record.rungs) - 1]:.0%}" if record.rungs else "a part"
        warnings.append(
            f"{name} is paused: its loss is that after {share} of its training, which can't be compared with "
            "those of the front"
        )
    elif record.state == RUNNING:
        warnings.append(f"{name} is still running: its results are not known yet")
    elif record.state == INFEASIBLE:
        warnings.append(f"{name} breaks a constraint and was not trained: its results are not known")
    elif not record.feasible:
        warnings.append(f"{name} breaks a constraint of the study")
    return Choice(record, reason, {}, warnings=tuple(warnings))
