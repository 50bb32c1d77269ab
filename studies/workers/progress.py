"""Progress of a search at one moment: counts, rates, ETA; and of the stages before its first trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from studies.study.trial_record import State, TrialRecord

Report = Callable[[Mapping[str, Any]], None]


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
        """Trainings per hour since this search started."""
        return 3600 * self.trained_here / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds until the target, from the mean time per trial and the progress of running ones.

        Paused trials count in the mean. None without a target, a trained trial or a worker.
        """
        times = [record.seconds for record in self.records if record.counted and record.seconds > 0]
        if self.target is None or not times or not self.workers:
            return None
        left: float = self.target - self.ended - sum(worker.get("done", 0.0) for worker in self.workers)
        return max(0.0, left) * fmean(times) / len(self.workers)


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
