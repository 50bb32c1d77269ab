"""Trackers on the command line: chosen before any work starts, and their warnings and stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from nas_cli.render.screen import console, is_live, print_warnings

if TYPE_CHECKING:
    from studies.study import Study
    from studies.tracking.choice import Choice


def chosen_trackers(track: Sequence[str] | None) -> list[Choice]:
    """Return the trackers of --track.

    Raises:
        UserError: there is no such tracker, or it is not installed.
    """
    if not track:
        return []
    from studies.tracking.choice import choose

    return choose(track)


@contextmanager
def tracking_study(study: Study, choices: Sequence[Choice]) -> Iterator[None]:
    """Track a study while the block runs; warnings wait until the live view has ended."""
    from studies.tracking.search import tracking

    waiting: list[str] = []

    def warn(text: str) -> None:
        if is_live():
            waiting.append(text)
        else:
            print_warnings([text])

    try:
        with tracking(study, choices, warn):
            yield
    finally:
        print_warnings(waiting)


def print_stores(choices: Sequence[Choice], folder: Path) -> None:
    """Print how to look at what was tracked; `folder` holds the stores by default."""
    for choice in choices:
        console.print(Text.assemble("tracked: ", (choice.view(folder), "bold")), soft_wrap=True)
