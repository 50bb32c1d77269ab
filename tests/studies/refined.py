"""Refining made-up architectures whose true losses are known, one run after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from studies.analysis.standings import Standings
from studies.search.refinement import next_run
from studies.study.replicates import mean_over_runs
from studies.study.trial_record import TrialRecord
from tests.studies.tables import OBJECTIVES, record, repeat

Watch = Callable[[list[TrialRecord], Standings], None]


def refined(
    losses: Sequence[float], params: Sequence[float], sd: float, most: int, random: np.random.Generator,
    watch: Watch = lambda records, standings: None,
) -> list[TrialRecord]:  # fmt: skip
    """Records, a run each at first, once `nas refine` finds nothing left to repeat.

    Args:
        losses: the true ones.
        params: exact costs.
        sd: of the noise of a run.
        most: runs of an architecture that may decide about the front.
        random: draws the noise.
        watch: is called before each run and at the end.
    """
    records = [
        record(number, [(loss + sd * random.normal(), size)])
        for number, (loss, size) in enumerate(zip(losses, params, strict=True))
    ]
    while True:
        merged = mean_over_runs(records)
        standings = Standings(merged, OBJECTIVES, 0)
        watch(merged, standings)
        chosen = next_run(merged, standings, most)
        if chosen is None:
            return records
        count = sum(item.repeat_of == chosen.number for item in records)
        values = (losses[chosen.number] + sd * random.normal(), params[chosen.number])
        records.append(repeat(len(records), chosen.number, count + 1, values))


def true_front(losses: Sequence[float]) -> set[int]:
    """Front of architectures in the order of their cost."""
    return {index for index, loss in enumerate(losses) if all(other > loss for other in losses[:index])}
