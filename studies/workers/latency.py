"""Block times as a worker needs them: timed on its device before the first trial, and kept with the study."""

from __future__ import annotations

from collections.abc import Callable

import torch

from search_spaces import SearchSpace
from search_spaces.extremes import check_range
from search_spaces.timed_blocks import space_parts
from studies.latency.machine import machine_of
from studies.latency.table import BlockTimer, Progress
from studies.latency.work import Setup
from studies.study import Study
from studies.study.block_times import store_times
from studies.training.loop import Interrupted
from surgery.architecture.block_times import BlockTime, BlockTimes, machine_text, time_key
from surgery.architecture.metrics import parse_metric
from surgery.architecture.timed_parts import TimedPart
from surgery.config.options import Cursor
from surgery.config.problems import Problem, Problems, UserError

Log = Callable[[str], None]


def time_blocks(
    study: Study, device: torch.device, progress: Progress, should_stop: Callable[[], bool], log: Log
) -> None:
    """Give the study's space the times of its blocks, where a latency is an objective or constraint.

    The first worker times what the machine's table lacks, and the study keeps the times. A worker on another
    machine uses them too, and says so; it can't add any.

    Raises:
        UserError: blocks are not timed and this is another machine, no design meets a limit on a latency, or
            the table can't be used.
        KeyboardInterrupt: asked to stop; what was timed is kept.
    """
    metrics = study.space.timed_metrics
    if not metrics:
        return
    timer = BlockTimer(Setup(device, study.space.latency.batch))
    parts = space_parts(study.space)
    times = study.stored_times() or BlockTimes(timer.machine)
    added: list[str] = []
    if dict(times.machine) == timer.machine:
        try:
            added = timer.fill(times, parts, metrics, progress, should_stop)
        except Interrupted:
            raise KeyboardInterrupt from None
    times = study.use_times(times, added)
    if dict(times.machine) == timer.machine:
        times.measure = _adding(study, times, timer)
        _log_times(times, parts, metrics, log)
    else:
        _check_complete(times, timer, parts, metrics)
        log(*foreign_times(study, device))
    _check_limits(study.space)


def foreign_times(study: Study, device: torch.device) -> list[str]:
    """Return a warning if the study's latencies are of another machine than this one; else nothing."""
    times = study.space.times
    if times is None:
        return []
    here = machine_of(Setup(device, study.space.latency.batch), study.settings.threads)
    if dict(times.machine) == here:
        return []
    return [f"latencies are of {machine_text(times.machine)}, not of this machine ({machine_text(here)})"]


def _adding(study: Study, times: BlockTimes, timer: BlockTimer) -> Callable[[TimedPart, str, int], BlockTime]:
    """Return a function that times a block that was not met before, and stores its time."""

    def measure(part: TimedPart, metric: str, length: int) -> BlockTime:
        store_times(study.inner, times, timer.fill(times, [part], [f"{metric}@{length}"]))
        return times.known[time_key(part, metric, length)]

    return measure


def _log_times(times: BlockTimes, parts: list[TimedPart], metrics: tuple[str, ...], log: Log) -> None:
    used = [times.of(part, *_parsed(name)) for part in parts for name in metrics]
    log(f"{len(parts)} blocks are timed on {machine_text(times.machine)}")
    eager = sorted({item.label for item in used if not item.graph})
    if eager and "threads" not in times.machine:  # on a GPU
        log(f"timed without a CUDA graph, which they can't be captured in: {', '.join(eager)}")


def _check_complete(
    times: BlockTimes, timer: BlockTimer, parts: list[TimedPart], metrics: tuple[str, ...]
) -> None:
    missing = [part for part in parts for name in metrics if not times.has(part, *_parsed(name))]
    if missing:
        rule = (
            f"is another machine than that of the study's block times, {machine_text(times.machine)}; "
            f"{len(missing)} of them are missing, the first one that of {missing[0].label}"
        )
        problem = Problem("device", _here(timer), rule, "run the search there, or start a new study")
        raise UserError("can't time the study's blocks here", [problem])


def _check_limits(space: SearchSpace) -> None:
    """Refuse limits on latencies that no design of a pretrained model meets."""
    if space.replacements is None:
        return
    problems = Problems()
    for item in space.constraints:
        if item.metric.timed:
            reach = space.replacements.cost_range(item.name, space.times)
            check_range(item, reach, Cursor(problems, path=("constraints",)))
    problems.raise_if_any("no design is within the limits")


def _parsed(name: str) -> tuple[str, int]:
    metric, length = parse_metric(name)
    return metric.name, length or 0


def _here(timer: BlockTimer) -> str:
    return machine_text(timer.machine)
