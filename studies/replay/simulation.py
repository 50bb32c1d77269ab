"""Replay of a search from a table of trained architectures: the study's own code with looked-up losses.

Workers are simulated: each takes trials, reaches rungs and finishes trials through the functions that a real
worker calls, on a clock of tokens. Without the training, a search of hours takes seconds.
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
from studies.study import Study
from studies.study.checkpoints import checkpoint_of
from studies.study.creation import start
from studies.study.leases import Lease
from studies.study.settings import StudySettings
from studies.surrogates.observations import Floats


@dataclass(frozen=True)
class Plan:
    """Settings of a replay. `rungs` are shares of the budget, each one a point of the table."""

    sampler: str
    stopping: str
    seed: int
    workers: int = 4
    rungs: tuple[float, ...] = (0.1, 0.3, 1.0)
    trials: int | None = None  # None: until the space is exhausted
    pool: bool = False  # `gain` chooses from a pool, as of a large space, and not from the whole table
    until: float = math.inf  # ends once this share of the table's hypervolume is reached


@dataclass
class Course:
    """History of a replay, in order.

    Attributes:
        tokens: total tokens of all workers at the end of each finished run.
        ended: hash of the architecture that finished then.
        shares: share of the table's hypervolume that is dominated from then on.
        stopped: architectures that were still paused at the end of the search.
        trained: tokens by architecture; no token is trained on twice.
        overhead: seconds of suggesting, deciding and storing per trial taken.
        spent: total tokens of all workers.
    """

    tokens: list[int] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    trained: dict[str, int] = field(default_factory=dict)
    overhead: list[float] = field(default_factory=list)
    spent: int = 0


def replay(table: Table, plan: Plan) -> Course:
    """Search the table until its space or the plan's trials are exhausted."""
    with _study(table, plan) as study, ExitStack() as leases:
        workers = [leases.enter_context(Lease(study.workers_folder)) for _ in range(plan.workers)]
        return _Simulation(table, plan, study, [lease.worker for lease in workers]).run()


class _Simulation:
    """A discrete-event simulation of workers; ties are broken by worker."""

    def __init__(self, table: Table, plan: Plan, study: Study, workers: Sequence[str]) -> None:
        self.table, self.plan, self.study, self.workers = table, plan, study, workers
        self.search = Search(study, table.facts)
        if plan.pool:
            self.search.gain.pool.whole = 0
        self.course = Course()
        self.volume = Volume(table)
        self.points = [table.fractions.index(share) for share in plan.rungs]
        self.steps = [round(share * table.space.proxy.tokens) for share in plan.rungs]
        self.running: dict[
            int, tuple[Assignment, Entry, int]
        ] = {}  # by worker: the trial, its entry and its next rung

    def run(self) -> Course:
        """Run the search and return its history."""
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
                for other in idle:  # a new result may have work for them
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
        self.course.stopped = [item.hash for item in self.study.records() if item.state == "paused"]
        return self.course

    def _next_step(self, worker: int) -> int:
        """Return the tokens until the worker's next rung."""
        rung = self.running[worker][2]
        return self.steps[rung] - (self.steps[rung - 1] if rung else 0)

    def _rung(self, worker: int) -> bool:
        """Process the rung that a worker's trial reached; return whether the worker is free again."""
        assignment, entry, rung = self.running[worker]
        trial, name = assignment.trial, self.workers[worker]
        self._count_tokens(entry.hash, self._next_step(worker))
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

    def _count_tokens(self, architecture: str, tokens: int) -> None:
        self.course.spent += tokens
        self.course.trained[architecture] = self.course.trained.get(architecture, 0) + tokens

    def _clock(self, started: float) -> None:
        if self.course.overhead:
            self.course.overhead[-1] += time.perf_counter() - started


@contextmanager
def _study(table: Table, plan: Plan) -> Iterator[Study]:
    """Create a study in memory, with a temporary folder for leases and checkpoint markers."""
    space = table.space
    known = tuple(name for name, item in space.baselines.items() if item.hash in table.entries)
    space = replace(space, baseline_names=known, proxy=replace(space.proxy, rungs=plan.rungs))
    settings = StudySettings(seed=plan.seed, sampler=plan.sampler, stopping=plan.stopping)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay"
        path.mkdir()
        inner = start(JournalStorage(_Memory()), path.name, space)
        yield Study(path, space, settings, inner, None)


class _Memory(BaseJournalBackend):
    """The embedded storage without its file.

    Optuna's in-memory storage is not used, since it never pops a trial that was enqueued again.
    """

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries; called by Optuna."""
        self.logs += logs

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the entries from a number on; called by Optuna."""
        return self.logs[log_number_from:]


class Volume:
    """Hypervolume of a subset of a table, as a share of the whole table's.

    Objectives are scaled to [0, 1] over the table, and the reference point is the worst of each. Losses are
    those of the first run, which a replay uses.
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
        self.front = {names[index] for index in undominated(np.array(list(self.points.values())))}
        self.whole = self._of([self.points[name] for name in self.front])
        self.dominating: list[Floats] = []
        self.share = 0.0

    def add(self, name: str) -> float:
        """Add an architecture and return the share of the hypervolume."""
        point = self.points[name]
        if not any((other <= point).all() for other in self.dominating):
            self.dominating = [other for other in self.dominating if not (point <= other).all()] + [point]
            self.share = self._of(self.dominating) / self.whole
        return self.share

    def _of(self, points: Sequence[Floats]) -> float:
        return hypervolume(np.array(points), np.ones(len(points[0])))
