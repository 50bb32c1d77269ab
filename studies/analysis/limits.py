"""Limits that a choice must meet, such as `params <= 40M`."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.constraints import read_limit
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


def stored_limits(texts: Sequence[str], bounds: Sequence[float], record: TrialRecord) -> list[Limit] | None:
    """Return the limits of a stored pick; None if a metric is one of another version.

    Args:
        texts: the limits as they were shown.
        bounds: their values; empty of an earlier version's picks: those of the trial, which met them.
        record: the trial that was picked.
    """
    limits = []
    for index, text in enumerate(texts):
        name, comparison, *_ = text.split()
        try:
            metric, _ = parse_metric(name)
        except ValueError:
            return None
        known = bounds[index] if bounds else Limit(name, metric, comparison, 0.0).measure(record)
        if known is None:
            return None
        limits.append(Limit(name, metric, comparison if bounds else f"{comparison[0]}=", known))
    return limits


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
