"""Replicates: trials that train an architecture again with new seeds. Its result is the mean of its runs.

Replicates that confirm a choice are kept apart: a result that they changed would be a new choice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from studies.study.trial_record import REPEAT_FAILED, REPEATED, Run, TrialRecord


def mean_over_runs(records: list[TrialRecord]) -> list[TrialRecord]:
    """Return the records; values and metrics of trials with replicates are means over all runs."""
    repeats: dict[int, dict[int, TrialRecord]] = defaultdict(dict)
    failed: dict[int, int] = defaultdict(int)
    for record in records:
        if record.repeat_of is None:
            continue
        if record.state == REPEATED:
            # two machines without a common lock may both have run it: the same seeds give no new information
            repeats[record.repeat_of].setdefault(record.repeat, record)
        failed[record.repeat_of] += record.state == REPEAT_FAILED and not record.confirms
    if not repeats and not failed:
        return records
    merged = list(records)
    for number in failed:
        original = records[number]
        merged[number] = _merged(original, list(repeats[number].values()), failed[number])
    return merged


def _merged(original: TrialRecord, repeats: Sequence[TrialRecord], failed: int) -> TrialRecord:
    if original.values is None:
        return original
    confirming = [record for record in repeats if record.confirms]
    repeats = [record for record in repeats if not record.confirms]
    runs = (*original.runs, *_runs(repeats))
    metrics = {
        name: fmean([value, *(record.metrics.get(name, value) for record in repeats)])
        for name, value in original.metrics.items()
    }
    return replace(
        original, values=mean_values(runs), metrics=metrics, runs=runs, failed_runs=failed,
        confirmations=_runs(confirming),
    )  # fmt: skip


def _runs(repeats: Sequence[TrialRecord]) -> tuple[Run, ...]:
    return tuple(Run(record.number, record.values) for record in repeats if record.values is not None)


def mean_values(runs: Sequence[Run]) -> tuple[float, ...]:
    """Return the mean over the runs, one value per objective."""
    return tuple(fmean(values) for values in zip(*(run.values for run in runs), strict=True))
