"""What a study knows of its runs as arrays, kept up to date from one call to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from studies.stats.extrapolation import end_loss
from studies.study.trial_record import DONE, RUNNING, STOPPED, WAITING, TrialRecord
from studies.surrogates.observations import Evidence, Floats
from surgery.architecture.costs import AHEAD

if TYPE_CHECKING:
    from studies.study import Study

LOSSES = ("val_loss", "val_bpb", *AHEAD)  # what a rung tells of, or is told on the same scale


def gather(study: Study, records: Sequence[TrialRecord]) -> Evidence:
    """Every trial that has a loss at a rung, in order; the same object while nothing is new."""
    return study.gathered.renew(study, records)


class Gathered:
    """One row a trial, written again only where its record has changed."""

    def __init__(self) -> None:
        self._records: list[TrialRecord] = []
        self._known = np.zeros(0, dtype=np.bool_)  # trials that have a row
        self._rows: Floats = np.zeros((0, 0))  # exempt, feasible, curve, costs, features
        self._evidence: Evidence | None = None

    def renew(self, study: Study, records: Sequence[TrialRecord]) -> Evidence:
        """Of these records: all of the study's trials, as they are or were at some moment."""
        before = self._records
        changed = [
            record
            for record, old in zip_longest(records, before[: len(records)])
            if record is not old and record != old
        ]
        written = [self._write(study, record) for record in changed]  # every one of them
        if self._evidence is None or any(written) or len(records) < len(before):
            self._known[len(records) :] = False
            self._evidence = self._build(study)
        self._records = list(records)
        return self._evidence

    def _write(self, study: Study, record: TrialRecord) -> bool:
        """Whether that makes a difference."""
        place = record.number
        if place >= len(self._known):
            self._known = _longer(self._known, 2 * place + 16)
        before = bool(self._known[place])
        self._known[place] = record.state == DONE or (
            bool(record.rungs) and record.state in (RUNNING, STOPPED, WAITING)
        )
        if not self._known[place]:
            return before
        row = [
            float(record.baseline is not None),
            float(record.feasible),
            *_curve(record, len(study.space.proxy.rungs), end_loss(study.space.objectives)),
            *_costs(study, record),
            *study.features(record),
        ]
        if place >= len(self._rows):
            self._rows = _longer(self._rows.reshape(-1, len(row)), len(self._known))
        if before and np.array_equal(self._rows[place], row, equal_nan=True):
            return False
        self._rows[place] = row
        return True

    def _build(self, study: Study) -> Evidence:
        numbers = np.flatnonzero(self._known)
        others = sum(item.name not in LOSSES for item in study.space.objectives)
        ends = np.cumsum([1, 1, len(study.space.proxy.rungs), others])
        rows = self._rows[numbers] if len(numbers) else np.zeros((0, ends[-1]))
        parts = np.split(rows, ends, axis=1)
        exempt, feasible, curves, costs = map(np.ascontiguousarray, parts[:-1])
        flags = (np.asarray(part.any(axis=1), dtype=np.bool_) for part in (exempt, feasible))
        return Evidence(numbers, costs, curves, parts[-1], *flags)


def _longer(table: NDArray[Any], rows: int) -> NDArray[Any]:
    """With more rows, of zeros."""
    found = np.zeros((rows, *table.shape[1:]), dtype=table.dtype)
    found[: len(table)] = table
    return found


def _curve(record: TrialRecord, rungs: int, metric: str) -> list[float]:
    """A loss a rung, the last by `metric`; NaN where the run did not get, or an older study kept none."""
    done = record.state == DONE
    known = record.rungs[: rungs - 1] if done else record.rungs
    end = [record.metrics[metric]] if done else []
    return [*known, *[math.nan] * (rungs - len(known) - len(end)), *end]


def _costs(study: Study, record: TrialRecord) -> list[float]:
    """Every objective but the loss, lower is better; what is not known yet is no advantage to anyone."""
    values = {**study.costs(record), **record.measured, **record.metrics}
    return [
        values.get(item.name, 0.0) * (1 if item.direction == "min" else -1)
        for item in study.space.objectives
        if item.name not in LOSSES
    ]
