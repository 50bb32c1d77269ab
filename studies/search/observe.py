"""Observations: what a study knows of its runs, as arrays kept up to date from call to call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces import SearchSpace
from studies.search.facts import ArchitectureFacts
from studies.stats.extrapolation import end_loss
from studies.study.trial_record import DONE, PAUSED, RUNNING, WAITING, TrialRecord
from studies.surrogates.observations import Floats, Observations
from surgery.architecture.metrics import AHEAD

LOSSES = ("val_loss", "val_bpb", *AHEAD)  # metrics measured at rungs, all in the scale of the loss


class Observer:
    """Keeps the observations of a study up to date: one row per trial, rewritten when its record changes."""

    def __init__(self, space: SearchSpace, facts: ArchitectureFacts) -> None:
        self.space, self.facts = space, facts
        self._records: list[TrialRecord] = []
        self._known = np.zeros(0, dtype=np.bool_)  # trials that have a row
        self._rows: Floats = np.zeros((0, 0))  # exempt, feasible, curve, costs, features
        self._observations: Observations | None = None

    def observe(self, records: Sequence[TrialRecord]) -> Observations:
        """Return a row for every trial with a loss at a rung, in order; the same object while nothing is new.

        Args:
            records: all of the study's trials, as they are or were at some moment.
        """
        before = self._records
        changed = [
            record
            for record, old in zip_longest(records, before[: len(records)])
            if record is not old and record != old
        ]
        written = [self._write(record) for record in changed]  # every one of them
        if self._observations is None or any(written) or len(records) < len(before):
            self._known[len(records) :] = False
            self._observations = self._build()
        self._records = list(records)
        return self._observations

    def _write(self, record: TrialRecord) -> bool:
        """Write the row of a record; return whether the observations changed."""
        index = record.number
        if index >= len(self._known):
            self._known = _longer(self._known, 2 * index + 16)
        before = bool(self._known[index])
        self._known[index] = record.state == DONE or (
            bool(record.rungs) and record.state in (RUNNING, PAUSED, WAITING)
        )
        if not self._known[index]:
            return before
        row = [
            float(record.baseline is not None),
            float(record.feasible),
            *_curve(record, len(self.space.proxy.rungs), end_loss(self.space.objectives)),
            *self._costs(record),
            *self.facts.features(record),
        ]
        if index >= len(self._rows):
            self._rows = _longer(self._rows.reshape(-1, len(row)), len(self._known))
        if before and np.array_equal(self._rows[index], row, equal_nan=True):
            return False
        self._rows[index] = row
        return True

    def _build(self) -> Observations:
        numbers = np.flatnonzero(self._known)
        others = sum(item.name not in LOSSES for item in self.space.objectives)
        ends = np.cumsum([1, 1, len(self.space.proxy.rungs), others])
        rows = self._rows[numbers] if len(numbers) else np.zeros((0, ends[-1]))
        parts = np.split(rows, ends, axis=1)
        exempt, feasible, curves, costs = map(np.ascontiguousarray, parts[:-1])
        flags = (np.asarray(part.any(axis=1), dtype=np.bool_) for part in (exempt, feasible))
        return Observations(numbers, costs, curves, parts[-1], *flags)

    def _costs(self, record: TrialRecord) -> list[float]:
        """Return every objective but the loss, lower is better; an unknown one counts as 0, no advantage."""
        values = {**self.facts.costs(record), **record.measured, **record.metrics}
        return [
            values.get(item.name, 0.0) * (1 if item.direction == "min" else -1)
            for item in self.space.objectives
            if item.name not in LOSSES
        ]


def _longer(table: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return the table extended with rows of zeros."""
    longer = np.zeros((rows, *table.shape[1:]), dtype=table.dtype)
    longer[: len(table)] = table
    return longer


def _curve(record: TrialRecord, rungs: int, metric: str) -> list[float]:
    """Return one loss per rung, the last by `metric`; NaN at rungs not reached or not stored."""
    done = record.state == DONE
    known = record.rungs[: rungs - 1] if done else record.rungs
    end = [record.metrics[metric]] if done else []
    return [*known, *[math.nan] * (rungs - len(known) - len(end)), *end]
