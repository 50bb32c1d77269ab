"""A study in trackers: a run for each trial, and one for the study with its front."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread

from studies.files.background import Foreground, in_background
from studies.study import Study
from studies.study.trial_record import DONE, FAILED, PAUSED, RUNNING, TrialRecord
from studies.tracking.choice import FOLDER, Choice
from studies.tracking.curves import new_points
from studies.tracking.guarded import Guard
from studies.tracking.progress import Progress
from studies.tracking.tracker import Run, Tracker, Value

SECONDS = 5.0  # between two looks at the study
STOP_SECONDS = 120.0  # that the last runs may take, which may be uploads
INTERRUPTED_SECONDS = 3.0  # the same after Ctrl-C
STUDY = "study"  # name of the run that holds the front
FOLLOWED = (RUNNING, PAUSED, DONE, FAILED)


def stores(study: Study) -> Path:
    """Return the folder of a study's local stores."""
    return study.folder / FOLDER


class StudyFollower:
    """Gives one tracker what is new in a study."""

    def __init__(self, study: Study, choice: Choice) -> None:
        self.study = study
        self.progress = Progress.read(stores(study), choice)
        self.tracker: Tracker = choice.open(stores(study), study.name, self.progress.mark)
        self._runs: dict[int, Run] = {}

    def update(self) -> None:
        """Track what has changed in the trials."""
        records = self.study.records()
        if any([self._follow(record) for record in records if record.state in FOLLOWED]):  # noqa: C419
            self.progress.write()

    def _follow(self, record: TrialRecord) -> bool:
        name = run_name(record)
        known = self.progress.of(name)
        ended = "" if record.state == RUNNING else f"{record.word} {len(record.rungs)}".strip()
        if ended and ended == known.ended:
            return False
        points = new_points(self.study, record, known.step)
        if not points and not ended:
            return False
        run = self._runs.get(record.number)
        if run is None:
            run = self._runs[record.number] = self.tracker.start(name, settings_of(record))
        for step, values in points:
            run.log(step, values)
            known.step = step
        if ended:
            del self._runs[record.number]
            run.finish(record.word, results_of(record))
        known.ended = ended
        return True

    def finish(self) -> None:
        """Track the front and how many trials ended in which way, and close the tracker."""
        front, records = self.study.front(), self.study.records()
        run = self.tracker.start(STUDY, {"space": self.study.space.name, "study": self.study.name})
        counts: dict[str, float] = {
            state: sum(record.word == state for record in records)
            for state in (self.study.space.done_word, PAUSED, FAILED)
        }
        known = self.progress.of(STUDY)
        known.step = max(known.step + 1, int(sum(counts.values())))
        run.log(known.step, {**counts, "front": len(front)})
        run.table("front", front_rows(front))
        run.finish(DONE, {})
        self.tracker.close()
        self.progress.write()


def run_name(record: TrialRecord) -> str:
    """Return the name of a trial's run, such as `trial-00012` or `trial-00000-dense`."""
    baseline = re.sub(r"[^\w.-]+", "-", record.baseline or "")
    return f"trial-{record.number:05d}" + (f"-{baseline}" if baseline else "")


def settings_of(record: TrialRecord) -> dict[str, Value]:
    """Return what a trial is: its architecture and the searched fields."""
    known: dict[str, Value] = {
        "trial": record.number,
        "architecture": record.line,
        "hash": record.hash,
        "baseline": record.baseline,
        "suggested_by": record.suggested_by or None,
        "seed": record.seeds[0] if record.seeds else None,
    }
    searched = {
        name: value if isinstance(value, str | int | float | None) else str(value)
        for name, value in record.params.items()
    }
    return {**{name: value for name, value in known.items() if value is not None}, **searched}


def results_of(record: TrialRecord) -> dict[str, float]:
    """Return what was measured of a trial."""
    values = {**record.measured, **record.metrics, "seconds": record.seconds}
    if record.tokens is not None:
        values["tokens"] = record.tokens
    if record.rungs and "val_loss" not in values:
        values["val_loss"] = record.rungs[-1]
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def front_rows(front: Sequence[TrialRecord]) -> list[dict[str, Value]]:
    """Return a row for each architecture of the front."""
    names = dict.fromkeys(name for record in front for name in record.metrics)
    return [
        {
            "trial": record.number,
            "baseline": record.baseline or "",
            "architecture": record.line,
            **{name: record.metrics.get(name) for name in names},
        }
        for record in front
    ]


@contextmanager
def tracking(
    study: Study, choices: Sequence[Choice], warn: Callable[[str], None], seconds: float = SECONDS
) -> Iterator[None]:
    """Track a study while the block runs; at its end the front is tracked as well.

    Every tracker has a thread of its own, so that a server that does not answer delays no other.

    Args:
        study: that is searched, by this process or by others.
        choices: the trackers.
        warn: called if a tracker fails, which ends nothing but its tracking.
        seconds: between two looks at the study.
    """

    def follow(choice: Choice, search: Foreground) -> None:
        with Guard(choice.name, warn)():
            # not the block's own connection
            follower = StudyFollower(Study.open(str(study.folder.resolve()), url=study.url), choice)
            while search.running:
                follower.update()
                search.wait(seconds)
            follower.update()
            follower.finish()

    threads: dict[Choice, Thread] = {}
    with ExitStack() as stack:
        for choice in choices:
            work = partial(follow, choice)
            threads[choice] = stack.enter_context(
                in_background(work, choice.name, patience=STOP_SECONDS, interrupted=INTERRUPTED_SECONDS)
            )
        yield
    for choice, thread in threads.items():
        if thread.is_alive():
            warn(f"{choice.name} does not answer; what it lacks comes with the next search of this study")
