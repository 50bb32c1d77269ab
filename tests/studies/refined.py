"""Refining made-up architectures whose true losses are known, one run after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from search_spaces import SearchSpace
from studies.analysis.standings import Standings
from studies.analysis.versus_baselines import VersusBaselines
from studies.search.refinement import next_job
from studies.study.replicates import mean_over_runs
from studies.study.trial_record import TrialRecord
from tests.studies.tables import OBJECTIVES, record, repeat

Watch = Callable[[list[TrialRecord], Standings, VersusBaselines | None], None]


def refined(
    losses: Sequence[float], params: Sequence[float], sd: float, most: int, random: np.random.Generator,
    space: SearchSpace | None = None, designs: int = 0, watch: Watch = lambda *_: None,
    confirm: bool = False,
) -> list[TrialRecord]:  # fmt: skip
    """Records, a run each at first, once `nas refine` finds nothing left to repeat.

    Args:
        losses: the true ones.
        params: exact costs.
        sd: of the noise of a run.
        most: runs of an architecture that may decide about the front.
        random: draws the noise.
        space: with it, the first `designs` architectures are designs to beat.
        designs: number of these.
        watch: is called before each run and at the end.
        confirm: whether the best is confirmed by fresh runs.
    """
    records = [
        record(
            number,
            [(loss + sd * random.normal(), size)],
            metrics={"params": size},
            baseline=f"design {number}" if number < designs else None,
        )
        for number, (loss, size) in enumerate(zip(losses, params, strict=True))
    ]
    while True:
        merged = mean_over_runs(records)
        standings = Standings(merged, OBJECTIVES, 0)
        versus = None if space is None else VersusBaselines(merged, standings, space)
        watch(merged, standings, versus)
        best = [row.record.number for row in standings.best] if confirm else []
        job = next_job(merged, standings, versus, best, most)
        if job is None:
            return records
        number = job.record.number
        count = sum(item.repeat_of == number for item in records)
        values = (losses[number] + sd * random.normal(), params[number])
        another = repeat(len(records), number, count + 1, values)
        records.append(replace(another, confirms=count + 1) if job.confirms else another)


def true_front(losses: Sequence[float]) -> set[int]:
    """Front of architectures in the order of their cost."""
    return {index for index, loss in enumerate(losses) if all(other > loss for other in losses[:index])}
