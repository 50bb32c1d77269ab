"""Objectives of a study: metrics and their directions."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.constraints import metric_name
from surgery.architecture.metrics import Metric, parse_metric
from surgery.config.options import Cursor
from surgery.config.problems import nearest

DIRECTIONS = ("min", "max")
MOST = 4  # with more objectives nearly every architecture is on the front
EXAMPLE = "such as {val_loss: min, params: min}"


@dataclass(frozen=True)
class Objective:
    """A metric, its context length in tokens if it has one, and the better direction."""

    metric: Metric
    context: int | None
    direction: str

    @property
    def name(self) -> str:
        """Name of the metric, such as `decode_flops@1024`."""
        return metric_name(self.metric, self.context)

    @property
    def measured(self) -> bool:
        """True if the metric is only known after training: neither computed nor a sum of block times."""
        return not self.metric.is_cost

    def __str__(self) -> str:
        return f"{self.name} {self.direction}"


def read_objectives(data: object, cursor: Cursor) -> tuple[Objective, ...]:
    """Return the objectives in file order; errors are collected as problems."""
    if not isinstance(data, dict) or not data:
        cursor.problem(data, "must map metrics to min or max", EXAMPLE)
        return ()
    objectives: list[Objective] = []
    for name, direction in data.items():
        here = cursor.at(str(name))
        try:
            metric, context = parse_metric(str(name))
        except ValueError as error:
            here.problem(None, str(error))
            continue
        if direction not in DIRECTIONS:
            hint = nearest(str(direction), DIRECTIONS) or f"write {metric.better}"
            here.problem(direction, "must be min or max", hint)
            continue
        objective = Objective(metric, context, str(direction))
        if not metric.analytic and direction != metric.better:
            # a size may go either way (the largest model under a limit); a worse loss is never intended
            here.problem(direction, f"would prefer the worse {metric.name}", f"write {metric.better}")
        elif any(objective.name == other.name for other in objectives):
            here.problem(None, f"repeats {objective.name}")
        else:
            objectives.append(objective)
    if len(objectives) == len(data):
        if not any(item.measured for item in objectives):
            names = ", ".join(item.name for item in objectives)
            cursor.problem(
                names, "none of these needs training: no quality is optimised", "add val_loss: min"
            )
        if len(objectives) > MOST:
            cursor.problem(len(objectives), f"at most {MOST} objectives", "make some of them constraints")
    return tuple(objectives)
