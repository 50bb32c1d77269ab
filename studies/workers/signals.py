"""Stop requests to a worker: honoured between two training steps, never within a write to the storage."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from studies.workers.supervisor import SUPERVISOR


class Stop:
    """A stop request: true after a signal, or once the supervisor that started this process has ended."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.supervisor = os.environ.get(SUPERVISOR)

    def __call__(self) -> bool:
        """Return whether the worker should stop."""
        orphaned = self.supervisor is not None and os.getppid() != int(self.supervisor)
        return orphaned or self.asked.is_set()

    def wait(self, seconds: float) -> None:
        """Wait for a signal, for so many seconds at most."""
        self.asked.wait(seconds)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Yield a stop request that SIGINT and SIGTERM set.

    Training polls it once per step, so a storage write is never interrupted. A second signal raises
    KeyboardInterrupt at once.
    """
    stop = Stop()

    def handler(number: int, frame: FrameType | None) -> None:
        if stop.asked.is_set():
            raise KeyboardInterrupt
        stop.asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
