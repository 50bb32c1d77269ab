"""A study in trackers: a run for each trial, and one for the study with its front."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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

    def __init__(self, study: Study, choice: Choice, progress: Progress) -> None:
        self.study, self.progress = study, progress
        self.key = choice.name if choice.where is None else f"{choice.name}={choice.where}"
        self.tracker: Tracker = choice.open(stores(study), study.name, progress.mark)
        self._runs: dict[int, Run] = {}

    def update(self, records: Sequence[TrialRecord]) -> bool:
        """Track what has changed in these trials, and return whether there was anything."""
        changed = [self._follow(record) for record in records if record.state in FOLLOWED]
        return any(changed)

    def _follow(self, record: TrialRecord) -> bool:
        name = run_name(record)
        known = self.progress.of(self.key, name)
        ended = "" if record.state == RUNNING else f"{record.state} {len(record.rungs)}".strip()
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
            run.finish(record.state, results_of(record))
        known.ended = ended
        return True

    def finish(self, front: Sequence[TrialRecord], records: Sequence[TrialRecord]) -> None:
        """Track the front and how many trials ended in which way, and close the tracker."""
        run = self.tracker.start(STUDY, {"space": self.study.space.name, "study": self.study.name})
        counts: dict[str, float] = {
            state: sum(record.state == state for record in records) for state in (DONE, PAUSED, FAILED)
        }
        known = self.progress.of(self.key, STUDY)
        known.step = max(known.step + 1, int(sum(counts.values())))
        run.log(known.step, {**counts, "front": len(front)})
        run.table("front", front_rows(front))
        run.finish(DONE, {})
        self.tracker.close()


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


class Followers:
    """The followers of a study, one for each tracker; one that fails is left out from then on."""

    def __init__(self, study: Study, choices: Sequence[Choice], warn: Callable[[str], None]) -> None:
        """Prepare; the trackers are opened by the first update.

        Args:
            study: that is searched.
            choices: the trackers.
            warn: called once for each tracker that fails.
        """
        self.study, self._progress = study, Progress.read(stores(study))
        self._guards = {choice: Guard(choice.name, warn) for choice in choices}
        self._followers: dict[Choice, StudyFollower] = {}

    def update(self, *, last: bool = False) -> None:
        """Track what is new; `last` tracks the front as well, and closes the trackers."""
        records = self.study.records()
        for choice, guard in self._guards.items():
            if not guard.working:
                continue
            with guard():
                if choice not in self._followers:
                    self._followers[choice] = StudyFollower(self.study, choice, self._progress)
                follower = self._followers[choice]
                changed = follower.update(records)
                if last:
                    follower.finish(self.study.front(), records)
                if changed or last:
                    self._progress.write()


@contextmanager
def tracking(
    study: Study, choices: Sequence[Choice], warn: Callable[[str], None], seconds: float = SECONDS
) -> Iterator[None]:
    """Track a study in a thread while the block runs; at its end the front is tracked as well.

    Args:
        study: that is searched, by this process or by others.
        choices: the trackers.
        warn: called if a tracker fails, which ends nothing but its tracking.
        seconds: between two looks at the study.
    """
    if not choices:
        yield
        return

    def run(search: Foreground) -> None:
        with Guard(", ".join(choice.name for choice in choices), warn)():
            # not the block's own connection
            followers = Followers(Study.open(str(study.folder.resolve()), url=study.url), choices, warn)
            while search.running:
                followers.update()
                search.wait(seconds)
            followers.update(last=True)

    with in_background(run, "trackers", patience=STOP_SECONDS, interrupted=INTERRUPTED_SECONDS):
        yield
