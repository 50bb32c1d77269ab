"""Timing on a device, and summaries of several measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Summary:
    """Summary of measurements: median in milliseconds, and spread as (highest - lowest) / median."""

    ms: float
    spread: float


def summary(seconds: Sequence[float]) -> Summary:
    """Summarize measurements in seconds."""
    middle = median(seconds)
    return Summary(1000 * middle, (max(seconds) - min(seconds)) / middle if middle else 0.0)


def timed(
    work: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the seconds until the device has finished `work`."""
    wait(device)
    started = clock()
    work()
    wait(device)
    return clock() - started


def wait(device: torch.device) -> None:
    """Wait for a CUDA device; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
