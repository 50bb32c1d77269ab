"""Timing of one piece of work: warm-up, CUDA graph where possible, repeats, median and spread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles

import torch

from studies.latency.timing import timed
from studies.latency.work import Setup, Work, model_work, part_work
from studies.training.cuda_graph import capture
from surgery.architecture import Architecture
from surgery.architecture.block_times import BlockTime
from surgery.architecture.metrics import NANOSECONDS
from surgery.architecture.timed_parts import TimedPart

WARM_UP = 3  # calls, which compile kernels and fill caches
# Seconds of calls per repeat: on CUDA far more than a synchronization takes; on a CPU less than the system
# gives another process at a time, so that these hit only some repeats, and the median is of the others.
STRETCH = {"cuda": 0.01, "cpu": 0.001}
MOST_CALLS = 1000  # per repeat
SECONDS = 0.1  # of all repeats
FEWEST, MOST = 3, 51  # repeats

Clock = Callable[[], float]


@dataclass(frozen=True)
class Measured:
    """Median seconds of the repeats, their interquartile range over it, and whether by a CUDA graph."""

    seconds: float
    spread: float
    graph: bool


def clock_of(device: torch.device) -> Clock:
    """Return the clock that work is timed by: seconds of the wall.

    A single thread on a CPU is timed by the seconds that it computes, as long as it would take on an idle
    machine: it waits for no device, and waiting for other processes is no property of a block.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def warm_up(device: torch.device) -> None:
    """Keep a GPU busy for about half a second, after which its clocks no longer rise; nothing on a CPU."""
    if device.type == "cuda":
        factor = torch.ones(8192, 8192, dtype=torch.bfloat16, device=device)
        for _ in range(200):
            factor @ factor
        torch.cuda.synchronize(device)


def measure_part(
    part: TimedPart, metric: str, length: int, setup: Setup, clock: Clock | None = None
) -> BlockTime:
    """Return the time of a part: a decoded token at a context, or a prompt, of `length` tokens."""
    work, copies = part_work(part, metric, length, setup)
    result = measure(work, setup.device, clock)
    nanoseconds = round(result.seconds / copies * 1000 * NANOSECONDS)
    return BlockTime(nanoseconds, result.spread, result.graph, part.label)


def measure_model(
    architecture: Architecture, metric: str, length: int, setup: Setup, clock: Clock | None = None
) -> Measured:
    """Return the time of a whole model, in the same way as those of its parts."""
    return measure(model_work(architecture, metric, length, setup), setup.device, clock)


def measure(work: Work, device: torch.device, clock: Clock | None = None) -> Measured:
    """Return the time of a call of `work`, replayed as a CUDA graph on a GPU if it can be captured.

    Args:
        work: what is timed.
        device: that it computes on.
        clock: tells seconds; None: that of the device (`clock_of`).
    """
    clock = clock or clock_of(device)
    for _ in range(WARM_UP - 1):
        work()
    call = _captured(work) if device.type == "cuda" else None
    graph = call is not None
    call = call or work
    once = timed(call, device, clock)
    once = max(once, 1e-9)
    calls = min(MOST_CALLS, max(1, round(STRETCH.get(device.type, 0.01) / once)))
    repeats = min(MOST, max(FEWEST, round(SECONDS / (calls * once))))
    samples = [timed(lambda: _repeat(call, calls), device, clock) / calls for _ in range(repeats)]
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    return Measured(middle, (high - low) / middle if middle else 0.0, graph)


def _captured(work: Work) -> Work | None:
    """Return replays of `work` as a CUDA graph; None if it can't be captured."""
    try:
        graph, outputs = capture(work)
    except RuntimeError:  # it synchronizes, or there is no memory for a copy
        torch.cuda.synchronize()
        return None
    kept = (graph, outputs)  # the graph writes into its outputs

    def replay() -> None:
        kept[0].replay()

    return replay


def _repeat(call: Work, times: int) -> None:
    for _ in range(times):
        call()
