"""Replicates: trials that train an architecture again with new seeds. Its result is the mean of its runs."""

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
        failed[record.repeat_of] += record.state == REPEAT_FAILED
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
    runs = (
        *original.runs,
        *(Run(record.number, record.values) for record in repeats if record.values is not None),
    )
    metrics = {
        name: fmean([value, *(record.metrics.get(name, value) for record in repeats)])
        for name, value in original.metrics.items()
    }
    return replace(original, values=mean_values(runs), metrics=metrics, runs=runs, failed_runs=failed)


def mean_values(runs: Sequence[Run]) -> tuple[float, ...]:
    """Return the mean over the runs, one value per objective."""
    return tuple(fmean(values) for values in zip(*(run.values for run in runs), strict=True))
