"""Work that is repeated in a thread while something else runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED_SECONDS = 0.1  # that the work may take after an error or Ctrl-C, whose answer does not wait


class Foreground:
    """The block of `in_background`, as seen from its work."""

    def __init__(self) -> None:
        self._closing = threading.Event()
        self._completed = threading.Event()

    @property
    def running(self) -> bool:
        """True until the block ends."""
        return not self._closing.is_set()

    @property
    def completed(self) -> bool:
        """True after the block has ended without an error and without Ctrl-C."""
        return self._completed.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep for some seconds, or until the block ends."""
        self._closing.wait(seconds)

    def end(self, *, completed: bool) -> None:
        """Record that the block has ended."""
        if completed:
            self._completed.set()
        self._closing.set()


@contextmanager
def in_background(
    work: Callable[[Foreground], None],
    name: str,
    *,
    patience: float,
    interrupted: float = INTERRUPTED_SECONDS,
) -> Iterator[threading.Thread]:
    """Run `work` in a daemon thread while the block runs, and yield the thread.

    Args:
        work: returns soon after the block has ended; it handles its own errors.
        name: of the thread.
        patience: seconds that the thread may take to end after the block.
        interrupted: the same if the block ends with an error or Ctrl-C.
    """
    foreground = Foreground()
    thread = threading.Thread(target=work, args=(foreground,), daemon=True, name=name)
    thread.start()
    try:
        yield thread
        foreground.end(completed=True)
    finally:
        foreground.end(completed=False)
        thread.join(timeout=patience if foreground.completed else interrupted)
