"""Trackers whose failures end nothing but the tracking: the user is warned once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Guard:
    """Runs what uses a tracker; after its first failure, nothing any more.

    Attributes:
        working: whether nothing has failed yet.
    """

    def __init__(self, name: str, warn: Callable[[str], None]) -> None:
        """Guard one tracker.

        Args:
            name: of the tracker.
            warn: called once, with a sentence for the user.
        """
        self.name, self.warn, self.working = name, warn, True

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Catch what a block raises and warn of it; the caller asks for `working` first."""
        try:
            yield
        except Exception as error:  # whatever a tracker's package raises
            self.working = False
            log.info("%s failed", self.name, exc_info=error)
            text = " ".join(str(error).split()) or type(error).__name__
            self.warn(f"{self.name} failed and tracks no longer, while the rest continues: {text}")
