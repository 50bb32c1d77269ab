"""A search replayed from a table of trained architectures: the study's own code, losses looked up.

Workers are simulated: each takes trials, reaches rungs and ends them through the functions that a real worker
calls, on a clock of tokens. Only the training is not there, so that a search of hours takes seconds.
"""

from __future__ import annotations

import heapq
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from studies.replay.table import Entry, Table
from studies.search.assignment import Assignment, finish, take
from studies.search.early_stopping import pause, reach
from studies.search.search import Search
from studies.stats.hypervolume import hypervolume
from studies.stats.pareto import undominated
from studies.storage.attributes import METRICS
from studies.study.checkpoints import checkpoint_of
from studies.study.leases import Lease
from studies.study.settings import StudySettings
from studies.study.study import Study, start
from studies.surrogates.observations import Floats


@dataclass(frozen=True)
class Plan:
    """How a table is searched. `rungs`: shares of the budget, each one of the table's points."""

    sampler: str
    stopping: str
    seed: int
    workers: int = 4
    rungs: tuple[float, ...] = (0.1, 0.3, 1.0)
    trials: int | None = None  # None: until the space is exhausted
    until: float = math.inf  # ends once this share of the table's hypervolume is reached


@dataclass
class Course:
    """What a replay did, in order.

    Attributes:
        tokens: spent by all workers when each run ended.
        ended: the architecture that was trained to its end then, by hash.
        shares: of the table's hypervolume that is dominated from then on.
        stopped: architectures that were still stopped when the search was over.
        trained: tokens by architecture; none is trained on a token twice.
        overhead: seconds of suggesting, deciding and storing by trial taken.
    """

    tokens: list[int] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    trained: dict[str, int] = field(default_factory=dict)
    overhead: list[float] = field(default_factory=list)
    spent: int = 0


def replay(table: Table, plan: Plan) -> Course:
    """Searches the table until its space or the plan's trials are exhausted."""
    with _study(table, plan) as study, ExitStack() as leases:
        workers = [leases.enter_context(Lease(study.workers_folder)) for _ in range(plan.workers)]
        return _Simulation(table, plan, study, [lease.worker for lease in workers]).run()


class _Simulation:
    """A queue of what happens next, by the clock; ties go by worker."""

    def __init__(self, table: Table, plan: Plan, study: Study, workers: Sequence[str]) -> None:
        self.table, self.plan, self.study, self.workers = table, plan, study, workers
        self.search = Search(study)
        self.course = Course()
        self.volume = Volume(table)
        self.points = [table.fractions.index(share) for share in plan.rungs]
        self.steps = [round(share * table.space.proxy.tokens) for share in plan.rungs]
        self.running: dict[int, tuple[Assignment, Entry, int]] = {}  # by worker: what, and the next rung

    def run(self) -> Course:
        events = [(0, worker) for worker in range(len(self.workers))]
        idle: list[int] = []
        while events and self.course.shares[-1:] < [self.plan.until]:
            now, worker = heapq.heappop(events)
            started = time.perf_counter()
            if worker in self.running:
                idle_again = self._rung(worker)
                if not idle_again:
                    events_next = self._next_step(worker)
                    heapq.heappush(events, (now + events_next, worker))
                    self._clock(started)
                    continue
                for other in idle:  # something is known that was not
                    heapq.heappush(events, (now, other))
                idle.clear()
            taken = take(self.search, self.workers[worker], self.plan.trials)
            self._clock(started)
            if isinstance(taken, Assignment):
                passed = self.study.record(taken.trial.number).passed
                entry = self.table.entries[taken.architecture.hash]
                self.running[worker] = taken, entry, passed
                heapq.heappush(events, (now + self._next_step(worker), worker))
                self.course.overhead.append(0.0)
            elif taken.wait:
                idle.append(worker)
        self.course.stopped = [item.hash for item in self.study.records() if item.state == "stopped"]
        return self.course

    def _next_step(self, worker: int) -> int:
        """Tokens until the worker's next rung."""
        rung = self.running[worker][2]
        return self.steps[rung] - (self.steps[rung - 1] if rung else 0)

    def _rung(self, worker: int) -> bool:
        """The worker's trial is at a rung; whether the worker is free again."""
        assignment, entry, rung = self.running[worker]
        trial, name = assignment.trial, self.workers[worker]
        self._spend(entry.hash, self._next_step(worker))
        losses = [entry.curves[0][point] for point in self.points[: rung + 1]]
        continues = reach(self.search, trial, name, losses, self.steps[rung], {})
        if rung + 1 == len(self.steps):
            metrics = {**entry.costs, "val_loss": losses[-1]}
            values = [metrics[item.name] for item in self.study.space.objectives]
            assert finish(self.study, trial, name, {METRICS: metrics}, values)
            self.course.tokens.append(self.course.spent)
            self.course.ended.append(entry.hash)
            self.course.shares.append(self.volume.add(entry.hash))
        elif not continues:
            self.study.trial_folder(trial.number)
            checkpoint_of(self.study, trial.number).touch()
            assert pause(self.search, trial, name)
        else:
            self.running[worker] = assignment, entry, rung + 1
            return False
        del self.running[worker]
        return True

    def _spend(self, architecture: str, tokens: int) -> None:
        self.course.spent += tokens
        self.course.trained[architecture] = self.course.trained.get(architecture, 0) + tokens

    def _clock(self, started: float) -> None:
        if self.course.overhead:
            self.course.overhead[-1] += time.perf_counter() - started


@contextmanager
def _study(table: Table, plan: Plan) -> Iterator[Study]:
    """A study in memory; its folder, for leases and marks of checkpoints, is gone afterwards."""
    space = table.space
    known = tuple(name for name, item in space.baselines.items() if item.hash in table.entries)
    space = replace(space, baseline_names=known, proxy=replace(space.proxy, rungs=plan.rungs))
    settings = StudySettings(seed=plan.seed, sampler=plan.sampler, stopping=plan.stopping)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay"
        path.mkdir()
        inner = start(JournalStorage(_Memory()), path.name, space, settings)
        yield Study(path, space, settings, inner, None)


class _Memory(BaseJournalBackend):
    """The embedded storage without its file. Optuna's own in memory never pops a trial that was put back."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from:]


class Volume:
    """The hypervolume of parts of a table, objectives scaled to [0, 1] over it, as a share of all of it.

    The reference point is the worst of the table in each objective. Losses are those of the first repeat,
    which is what a replay sees.
    """

    def __init__(self, table: Table) -> None:
        rows = {
            name: [
                (entry.curves[0][-1] if item.name == "val_loss" else entry.costs[item.name])
                * (1 if item.direction == "min" else -1)
                for item in table.space.objectives
            ]
            for name, entry in table.entries.items()
        }
        values = np.array(list(rows.values()))
        self.points = dict(zip(rows, (values - values.min(axis=0)) / np.ptp(values, axis=0), strict=True))
        names = list(self.points)
        self.front = {names[place] for place in undominated(np.array(list(self.points.values())))}
        self.whole = self._of([self.points[name] for name in self.front])
        self.dominating: list[Floats] = []
        self.share = 0.0

    def add(self, name: str) -> float:
        """The share with one more architecture."""
        point = self.points[name]
        if not any((other <= point).all() for other in self.dominating):
            self.dominating = [other for other in self.dominating if not (point <= other).all()] + [point]
            self.share = self._of(self.dominating) / self.whole
        return self.share

    def _of(self, points: Sequence[Floats]) -> float:
        return hypervolume(np.array(points), np.ones(len(points[0])))
