"""Constraints on costs (`params <= 70M`, `decode_ms@4096 <= 50%`), checked before training."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from surgery.architecture import Architecture
from surgery.architecture.block_times import BlockTimes
from surgery.architecture.costs import cost_in_steps, cost_in_units
from surgery.architecture.metrics import METRICS, Metric, parse_metric
from surgery.config.options import Cursor
from surgery.config.quantities import parse_share

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_SHAPE = re.compile(r"\s*([A-Za-z_][\w.@]*)\s*([<>=!~]+)\s*(.+?)\s*")
MOST = 100  # constraints per space
EXAMPLE = 'write it as "params <= 70M" or "cache_bytes@4096 <= 8MiB"'


@dataclass(frozen=True)
class Constraint:
    """`metric comparison limit`.

    Attributes:
        limit: in steps of the metric (`Metric.steps`): a count, bytes, or nanoseconds.
        share: the limit as a share of the pretrained model's own latency, which is not known before its
            blocks are timed; None: the limit is as given.
    """

    metric: Metric
    context: int | None
    comparison: str
    limit: int
    text: str = field(default="", compare=False)
    share: float | None = None

    @property
    def name(self) -> str:
        """Name of the metric, such as `cache_bytes@4096`."""
        return metric_name(self.metric, self.context)

    def measure(self, architecture: Architecture, times: BlockTimes | None = None) -> int:
        """Return the metric of an architecture in steps.

        Raises:
            UserError: a latency of blocks that are not timed.
        """
        return cost_in_steps(architecture, self.name, times)

    def resolve(self, model: Architecture | None, times: BlockTimes) -> Constraint:
        """Return the constraint with its share of the model's own latency as a limit, if that is known."""
        if self.share is None:
            return self
        assert model is not None, "checked where the share is read"
        if not times.covers(model, self.metric.name, self.context or 0):  # its worker was killed too early
            return self
        return replace(self, limit=round(self.share * self.measure(model, times)))

    def amount(self, value: float) -> float:
        """Return at most 0 if `value` is allowed, else its excess as a fraction of the limit.

        Costs are whole numbers of steps, so `< L` is `<= L - 1`.
        """
        low, high = self.interval
        scale = max(1.0, float(self.limit))
        excess = max(low - value if low is not None else 0, value - high if high is not None else 0)
        if excess > 0:
            return excess / scale
        slack = min(abs(value - edge) for edge in (low, high) if edge is not None)
        return -slack / scale

    @property
    def interval(self) -> tuple[int | None, int | None]:
        """(lowest, highest) allowed value in steps; None where unbounded."""
        limit = self.limit
        return {
            "<=": (None, limit),
            "<": (None, limit - 1),
            ">=": (limit, None),
            ">": (limit + 1, None),
            "==": (limit, limit),
        }[self.comparison]

    def __str__(self) -> str:
        return self.text or f"{self.name} {self.comparison} {self.format(self.limit)}"

    def format(self, value: float) -> str:
        """Format a value in steps in the metric's unit."""
        return self.metric.format(value / self.metric.steps)

    @property
    def exact(self) -> str:
        """The constraint with every digit of the limit, which is a share where it was given as one."""
        limit = str(self.limit) if self.metric.analytic else f"{self.limit / self.metric.steps:.12g}"
        if self.share is not None:
            limit = f"{100 * self.share:.12g}%"
        return f"{self.name} {self.comparison} {limit}"


@dataclass(frozen=True)
class Violation:
    """A violated constraint, and the value in steps that violates it."""

    constraint: Constraint
    value: int

    def __str__(self) -> str:
        value = self.constraint.format(self.value)
        return f"{self.constraint.name} is {value}, violates {self.constraint}"


def metric_name(metric: Metric, context: int | None) -> str:
    """Return the name of a metric at a context, such as `cache_bytes@4096`."""
    return metric.name if context is None else f"{metric.name}@{context}"


def values(
    constraints: Sequence[Constraint], architecture: Architecture, times: BlockTimes | None = None
) -> tuple[float, ...]:
    """Return one number per constraint, at most 0 if it holds, as feasibility-aware samplers expect."""
    return tuple(item.amount(item.measure(architecture, times)) for item in constraints)


def violations(
    constraints: Sequence[Constraint], architecture: Architecture, times: BlockTimes | None = None
) -> list[Violation]:
    """Return the constraints that the architecture violates."""
    measured = ((item, item.measure(architecture, times)) for item in constraints)
    return [Violation(item, value) for item, value in measured if item.amount(value) > 0]


def read_constraints(
    data: object, cursor: Cursor, model: Architecture | None = None
) -> list[tuple[int, Constraint]]:
    """Return (list index, constraint) of the valid ones; add problems for the others and for conflicts.

    Args:
        data: the section.
        cursor: its position.
        model: the pretrained model, of whose costs limits such as `25%` are shares.
    """
    if data is None:
        return []
    if not isinstance(data, list):
        cursor.problem(data, "must be a list of constraints", EXAMPLE)
        return []
    if len(data) > MOST:
        cursor.problem(f"{len(data):,} constraints", f"must be at most {MOST}", "keep the tightest ones")
        return []
    constraints: list[tuple[int, Constraint]] = []
    for index, text in enumerate(data):
        constraint = _read_one(text, cursor.at(index), model)
        if constraint is None:
            continue
        other = next((other for _, other in constraints if _conflict(constraint, other)), None)
        if other is not None:
            cursor.at(index).problem(text, f"conflicts with {other}: no value satisfies both")
        else:
            constraints.append((index, constraint))
    return constraints


def _read_one(text: object, cursor: Cursor, model: Architecture | None) -> Constraint | None:
    match = _SHAPE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        cursor.problem(text, "is not a constraint: metric, comparison, limit", EXAMPLE)
        return None
    name, comparison, limit_text = match.groups()
    if comparison not in COMPARISONS:
        spelling = {"=": "==", "=<": "<=", "=>": ">="}.get(comparison)
        hint = f'did you mean "{spelling}"?' if spelling else ""
        cursor.problem(text, f"'{comparison}' is not a comparison: {', '.join(COMPARISONS)}", hint)
        return None
    if any(mark in limit_text for mark in "<>="):
        cursor.problem(text, "has two limits", "write two constraints")
        return None
    try:
        metric, context = parse_metric(name)
    except ValueError as error:
        cursor.problem(text, f"{name} {error}")
        return None
    if not metric.is_cost:
        costs = ", ".join(key for key, item in METRICS.items() if item.is_cost)
        rule = f"{name} is only known after training, so it can't be checked before"
        cursor.problem(text, rule, f"make it an objective; metrics for constraints: {costs}")
        return None
    share = parse_share(limit_text) if metric.timed and model is not None else None
    if share is not None:  # resolved once the blocks are timed
        return Constraint(metric, context, comparison, 0, match[0].strip(), share)
    try:
        limit = read_limit(metric, context, limit_text, model)
    except ValueError as error:
        cursor.problem(text, f"the limit '{limit_text}' of {name} ({metric.unit}) {error}")
        return None
    return Constraint(metric, context, comparison, round(limit * metric.steps), match[0].strip())


def read_limit(
    metric: Metric,
    context: int | None,
    text: str,
    model: Architecture | None,
    times: BlockTimes | None = None,
) -> float:
    """Return a limit in the metric's unit; `25%` is that share of the model's own cost.

    Args:
        metric: what is limited.
        context: of the metric.
        text: the limit as written.
        model: the pretrained model; None: there is none.
        times: of the blocks, for a share of a latency.

    Raises:
        UserError: a share of a latency, and the model's blocks are not timed.
        ValueError: not a value of this metric, or a share of nothing that is known.
    """
    share = parse_share(text)
    if share is None:
        return metric.parse(text)
    if not metric.is_cost:
        raise ValueError("can't be a share: only costs that are known before training can")
    if model is None:
        raise ValueError("is a share, but there is no pretrained model to take it of")
    return share * cost_in_units(model, metric_name(metric, context), times)


def _conflict(one: Constraint, other: Constraint) -> bool:
    if one.name != other.name or one.share is not None or other.share is not None:
        return False  # a share of a latency is not known yet
    lows = [low for low, _ in (one.interval, other.interval) if low is not None]
    highs = [high for _, high in (one.interval, other.interval) if high is not None]
    return bool(lows and highs) and max(lows) > min(highs)
