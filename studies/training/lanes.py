"""Lanes: several trainings in the threads of one process, which share a device and never each other's state.

A step that is captured as a CUDA graph is replayed on the lane's own stream, at any time, with random numbers
of the lane's own. Whatever runs kernel by kernel (building a model, the first steps, the capture, an
evaluation) is a turn, and turns exclude each other: torch has one random generator a device, which a turn
borrows, and one peak of memory, which it measures.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

_current = threading.local()


class Lanes:
    """The lanes of one process on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = torch.empty(0, device=device).device  # with its number
        self._lock = threading.RLock()

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """Make the calling thread a lane while the block runs."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:  # the current device is a thread's own
            torch.cuda.set_device(self.device)
        with torch.cuda.stream(torch.cuda.Stream(self.device)) if on_gpu else nullcontext():
            with self._lock:  # while no other lane's states are in use
                lane = Lane(self.device, self._lock)
            before, _current.lane = current_lane(), lane
            try:
                yield lane
            finally:
                _current.lane = before


class Lane:
    """One training at a time, in one thread.

    Attributes:
        peak: the most bytes on the GPU that the lane's turns held since `reset_peak`; captured steps allocate
            nothing.
    """

    def __init__(self, device: torch.device, lock: threading.RLock) -> None:
        self.device, self._lock = device, lock
        self._depth = 0
        self._random = _Random.copied(device)
        self._held = self.peak = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Run the block while no other lane has a turn. Turns may be nested."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth > 1:
                    yield
                    return
                shared, before = _Random.used(self.device), self._allocated()
                self._random.use(self.device)
                if self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(self.device)
                try:
                    yield
                finally:
                    self._random = _Random.used(self.device)
                    shared.use(self.device)
                    if self.device.type == "cuda":
                        most = torch.cuda.max_memory_allocated(self.device)
                        self.peak = max(self.peak, self._held + most - before)
                        self._held = max(0, self._held + self._allocated() - before)
            finally:
                self._depth -= 1

    def reset_peak(self) -> None:
        """Forget what earlier trainings of this lane held; called in a turn, before a model is built."""
        self._held = self.peak = 0

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0


@dataclass(frozen=True)
class _Random:
    """States of torch's generators: the CPU's, and the GPU's own, which captured graphs keep and advance."""

    cpu: torch.Tensor
    gpu: torch.Generator | None

    @classmethod
    def used(cls, device: torch.device) -> _Random:
        """Return the states that torch draws from; that of the GPU is no copy."""
        generator = _generator(device)
        return cls(torch.get_rng_state(), None if generator is None else generator.graphsafe_get_state())

    @classmethod
    def copied(cls, device: torch.device) -> _Random:
        """Return states like those in use, for a lane of its own."""
        generator = _generator(device)
        return cls(torch.get_rng_state(), None if generator is None else generator.clone_state())

    def use(self, device: torch.device) -> None:
        """Make these the states that torch draws from."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None and (generator := _generator(device)) is not None:
            generator.graphsafe_set_state(self.gpu)


def _generator(device: torch.device) -> torch.Generator | None:
    if device.type != "cuda":
        return None
    return torch.cuda.default_generators[device.index]


def current_lane() -> Lane | None:
    """Return the lane that the calling thread is; None outside of lanes."""
    return getattr(_current, "lane", None)


def turn() -> AbstractContextManager[None]:
    """Return the current lane's turn; a context that does nothing outside of lanes."""
    lane = current_lane()
    return nullcontext() if lane is None else lane.turn()
