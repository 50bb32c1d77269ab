"""Joining a study, as `nas worker` and the processes of a supervisor do."""

from __future__ import annotations

from functools import partial

from studies.search.assignment import take
from studies.search.refinement import take_repeat
from studies.study import Study
from studies.workers.worker import Log, work


def join(
    study: Study, *, target: int | None, device: str, most_runs: int | None, log: Log, lanes: int | None = 1
) -> str:
    """Train the study's trials until it has enough, then renew its front.

    Args:
        target: trained architectures, or replicates, that the study shall have; None is no limit.
        lanes: trials that are trained at a time; None: as many as pay.
        most_runs: train replicates, at most so many runs per architecture; None: new architectures.

    Returns:
        The reason why there is nothing left to train.

    Raises:
        UserError, DeviceLost, KeyboardInterrupt: as `work` does.
    """
    take_next = take if most_runs is None else partial(take_repeat, most=most_runs)
    reason = work(study, target=target, device=device, lanes=lanes, log=log, take_next=take_next)
    study.write_front()
    return reason
