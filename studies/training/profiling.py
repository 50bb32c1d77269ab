"""Where the time of a run goes: marks that cost nothing until somebody watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_watchers: list[Callable[[str], None]] = []
_wholes: list[str] = []  # phases of the blocks that are open, the innermost last


def mark(phase: str) -> None:
    """The time since the last mark was spent on `phase`."""
    for watcher in _watchers:
        watcher(_wholes[-1] if _wholes else phase)


@contextmanager
def all_of(phase: str) -> Iterator[None]:
    """Whatever is marked inside of the block is part of `phase`."""
    _wholes.append(phase)
    try:
        yield
        mark(phase)
    finally:
        _wholes.pop()


class Stretches:
    """What was marked, in order, as (phase, seconds). A watched device is waited for at every mark, so that
    its work counts where it was asked for; watching therefore slows CUDA down a little."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.found: list[tuple[str, float]] = []
        self.since = time.perf_counter()

    def __call__(self, phase: str) -> None:
        if self.device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():
                return  # nothing runs
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.found.append((phase, now - self.since))
        self.since = now

    def of(self, phase: str) -> list[float]:
        """Seconds of each stretch of a phase."""
        return [seconds for name, seconds in self.found if name == phase]


@contextmanager
def watching(device: torch.device) -> Iterator[Stretches]:
    """The stretches marked inside of the block."""
    stretches = Stretches(device)
    _watchers.append(stretches)
    try:
        yield stretches
    finally:
        _watchers.remove(stretches)
