"""Progress of a search at one moment: counts, rates, ETA; and of the stages before its first trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from studies.study.trial_record import State, TrialRecord

Report = Callable[[Mapping[str, Any]], None]

TRAINING = "training"  # states of a worker that is at a trial; others are stages before it
MEASURING = "measuring"
LEAST_PACE = 0.5  # trainings after which a pace is shown: earlier it is mostly that of starting


@dataclass(frozen=True)
class Snapshot:
    """The study at one moment, for a screen."""

    records: list[TrialRecord]
    front: list[TrialRecord]
    workers: list[dict[str, Any]]
    elapsed: float
    target: int | None
    trained_here: int  # since this search started, counted as the target is
    refining: bool = False  # replicates are trained and counted
    prepared: float = 0.0  # of `elapsed`, what passed before the first training began

    def count(self, state: State) -> int:
        """Return the number of trials in a state."""
        return sum(record.state == state for record in self.records)

    @property
    def counted(self) -> int:
        """Number of architectures that `--trials` counts: trained, paused and failed ones."""
        return sum(record.counted for record in self.records)

    @property
    def ended(self) -> int:
        """Number of ended trainings, counted as the target is."""
        return sum(record.repeated for record in self.records) if self.refining else self.counted

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of all workers together."""
        return float(sum(worker.get("tokens_per_s", 0.0) for worker in self.workers))

    @property
    def trials_per_hour(self) -> float:
        """Trainings per hour since the first began, with the parts of those that run.

        Suggestions, evaluations and resumed runs are in it, so that it is what a clock shows.
        """
        seconds = self.elapsed - self.prepared
        return 3600 * (self.trained_here + self._parts) / seconds if seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds until the target at the present pace.

        It is at least what the run that is furthest from its end still takes. None without a target, or
        before this search has half a training behind it.
        """
        here = self.trained_here + self._parts
        if self.target is None or not self.workers or here < LEAST_PACE:
            return None
        each = (self.elapsed - self.prepared) / here
        left = max(0.0, self.target - self.ended - self._parts)
        own = len(self.workers) * each  # seconds of one training in one worker
        running = [worker["done"] for worker in self.workers if worker.get("state") == TRAINING]
        return max(left * each, max((1 - done for done in running), default=0.0) * own if left else 0.0)

    @property
    def _parts(self) -> float:
        """Parts of a training that the workers have behind them in those that run."""
        return float(sum(worker["done"] for worker in self.workers if worker.get("state") == TRAINING))


class Stages:
    """Reports how far a stage is, and the seconds that it will still take at the speed so far."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began: dict[str, tuple[float, int]] = {}  # by stage: time of the first report, and done then

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, before = self._began.setdefault(stage, (now, done))
        eta = (now - start) / (done - before) * (total - done) if done > before else None
        share = done / max(1, total)
        self._report({"state": stage, "done": share, "line": f"{done} of {total}", "eta": eta})
