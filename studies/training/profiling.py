"""Profiling of a run by phases. Marks cost nothing unless a watcher is registered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_watchers: list[Callable[[str], None]] = []
_enclosing: list[str] = []  # phases of the open `all_of` blocks, the innermost last


def mark(phase: str) -> None:
    """Attribute the time since the last mark to `phase`."""
    for watcher in _watchers:
        watcher(_enclosing[-1] if _enclosing else phase)


@contextmanager
def all_of(phase: str) -> Iterator[None]:
    """Attribute all time inside of the block to `phase`, whatever is marked there."""
    _enclosing.append(phase)
    try:
        yield
        mark(phase)
    finally:
        _enclosing.pop()


class Stretches:
    """Marked stretches of time in order, as (phase, seconds).

    Every mark synchronizes a CUDA device, so that its work counts for the phase that launched it; profiling
    therefore slows CUDA down slightly.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stretches: list[tuple[str, float]] = []
        self.since = time.perf_counter()

    def __call__(self, phase: str) -> None:
        if self.device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():
                return  # a capture executes nothing
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.stretches.append((phase, now - self.since))
        self.since = now

    def of(self, phase: str) -> list[float]:
        """Return the seconds of each stretch of a phase."""
        return [seconds for name, seconds in self.stretches if name == phase]


@contextmanager
def watching(device: torch.device) -> Iterator[Stretches]:
    """Collect the stretches that are marked inside of the block."""
    stretches = Stretches(device)
    _watchers.append(stretches)
    try:
        yield stretches
    finally:
        _watchers.remove(stretches)
