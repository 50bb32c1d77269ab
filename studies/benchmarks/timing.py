"""Times on a device, and what is told of several."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Summary:
    """Of measurements in seconds: the median in milliseconds, and (highest - lowest) / median."""

    ms: float
    spread: float


def summary(seconds: Sequence[float]) -> Summary:
    middle = median(seconds)
    return Summary(1000 * middle, (max(seconds) - min(seconds)) / middle if middle else 0.0)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
