"""Timing of one piece of work: warm-up, CUDA graph where possible, repeats, median and spread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from studies.latency.timing import summary, timed
from studies.latency.work import Setup, Work, model_work, part_work
from studies.training.cuda_graph import capture
from surgery.architecture import Architecture
from surgery.architecture.block_times import BlockTime
from surgery.architecture.metrics import NANOSECONDS
from surgery.architecture.timed_parts import TimedPart

WARM_UP = 3  # calls, which compile kernels and fill caches
STRETCH = 0.01  # seconds of calls per repeat: far more than a synchronization takes
MOST_CALLS = 1000  # per repeat
REPEATS, FEWER_REPEATS = 7, 3
SLOW = 0.25  # seconds of a call, from which on there are fewer repeats

Clock = Callable[[], float]


@dataclass(frozen=True)
class Measured:
    """A time in seconds: median of the repeats, (highest - lowest) / median, and whether by a CUDA graph."""

    seconds: float
    spread: float
    graph: bool


def warm_up(device: torch.device) -> None:
    """Keep a GPU busy for about half a second, after which its clocks no longer rise; nothing on a CPU."""
    if device.type == "cuda":
        factor = torch.ones(8192, 8192, dtype=torch.bfloat16, device=device)
        for _ in range(200):
            factor @ factor
        torch.cuda.synchronize(device)


def measure_part(
    part: TimedPart, metric: str, length: int, setup: Setup, clock: Clock = time.perf_counter
) -> BlockTime:
    """Return the time of a part: a decoded token at a context, or a prompt, of `length` tokens."""
    work, copies = part_work(part, metric, length, setup)
    result = measure(work, setup.device, clock)
    nanoseconds = round(result.seconds / copies * 1000 * NANOSECONDS)
    return BlockTime(nanoseconds, result.spread, result.graph, part.label)


def measure_model(
    architecture: Architecture, metric: str, length: int, setup: Setup, clock: Clock = time.perf_counter
) -> Measured:
    """Return the time of a whole model, in the same way as those of its parts."""
    return measure(model_work(architecture, metric, length, setup), setup.device, clock)


def measure(work: Work, device: torch.device, clock: Clock = time.perf_counter) -> Measured:
    """Return the time of a call of `work`, replayed as a CUDA graph on a GPU if it can be captured."""
    for _ in range(WARM_UP - 1):
        work()
    call = _captured(work) if device.type == "cuda" else None
    graph = call is not None
    call = call or work
    once = timed(call, device, clock)
    calls = min(MOST_CALLS, max(1, round(STRETCH / once))) if once > 0 else MOST_CALLS
    repeats = REPEATS if once < SLOW else FEWER_REPEATS
    samples = [timed(lambda: _repeat(call, calls), device, clock) / calls for _ in range(repeats)]
    result = summary(samples)
    return Measured(result.ms / 1000, result.spread, graph)


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
