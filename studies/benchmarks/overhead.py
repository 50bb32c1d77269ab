"""What a study costs beside training: suggesting, deciding and storing, by trial, as the study grows.

A study on disk in the embedded storage. Every worker has opened it for itself, as in a process of its own, so
that each reads what the others wrote; they take turns. Only the losses are made up, and so cost nothing.
"""

from __future__ import annotations

import gc
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from search_spaces import SearchSpace
from studies.search.assignment import Assignment, finish, take
from studies.search.early_stopping import pause, reach
from studies.search.observe import LOSSES
from studies.search.samplers import check_sampler
from studies.search.search import Search
from studies.search.stopping_rules import check_stopping_rule
from studies.stats.seeds import derive_seed
from studies.storage.attributes import METRICS, SEEDS
from studies.study import Study
from studies.study.checkpoints import checkpoint_of
from studies.study.leases import Lease
from studies.study.settings import DEFAULT_SAMPLER, DEFAULT_STOPPING, StudySettings
from studies.study.trial_record import TrialRecord
from studies.surrogates.descriptors import SUMMARY
from surgery.config.problems import Problem, UserError

PARTS = ("take", "reach", "end")  # suggesting; deciding at every rung; the stop or the end
WINDOW = 50  # trials up to each count that figures are means over


@dataclass(frozen=True)
class OverheadPlan:
    """Which study grows. `at`: architectures taken when its overhead is told, rising."""

    space: SearchSpace
    sampler: str = DEFAULT_SAMPLER
    stopping: str = DEFAULT_STOPPING
    at: tuple[int, ...] = (500,)
    workers: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Overhead:
    """Milliseconds a trial, by part, when so many trials have been taken.

    Attributes:
        cpu: of the processor.
        wall: of the clock, waits for the disk among them.
        duplicates: architectures that were taken a second time, so far.
    """

    trials: int
    cpu: dict[str, float]
    wall: dict[str, float]
    duplicates: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "cpu_ms": sum(self.cpu.values()), "wall_ms": sum(self.wall.values())}


def measure_overhead(plan: OverheadPlan, tell: Callable[[str], None] = lambda line: None) -> list[Overhead]:
    """One row a count in `plan.at`.

    Raises:
        UserError: unknown names, objectives that can't be made up, or a space with fewer architectures.
    """
    check_sampler(plan.sampler)
    check_stopping_rule(plan.stopping)
    for item in plan.space.objectives:
        if item.measured and item.name not in LOSSES:
            rule = f"only {' and '.join(LOSSES)} can be made up"
            raise UserError("can't measure this space", [Problem("objectives", item.name, rule)])
    settings = StudySettings(seed=plan.seed, sampler=plan.sampler, stopping=plan.stopping)
    with tempfile.TemporaryDirectory(prefix="nas-bench-") as scratch, ExitStack() as leases:
        folder = Study.create("overhead", plan.space, settings, Path(scratch)).folder
        searches = [Search(Study.open(str(folder))) for _ in range(plan.workers)]
        names = [leases.enter_context(Lease(search.study.workers_folder)).worker for search in searches]
        try:
            return list(_grow(plan, [_Worker(*item) for item in zip(searches, names, strict=True)], tell))
        finally:
            gc.unfreeze()


def _grow(plan: OverheadPlan, workers: Sequence[_Worker], tell: Callable[[str], None]) -> Iterator[Overhead]:
    taken: dict[str, int] = {}  # trial by architecture
    duplicates = since = 0
    clock = _Clock()
    marks = {count for at in plan.at for count in (at - min(at, WINDOW), at)}
    for worker in cycle(workers):
        count = len(taken)
        if count in marks:
            marks.remove(count)
            if count in plan.at:
                yield Overhead(count, *clock.each(count - since), duplicates)
            if not marks:
                return
            clock, since = _Clock(), count
        if worker.turn(clock) and worker.running is not None:
            trial, name = worker.running.trial.number, worker.running.architecture.hash
            duplicates += taken.setdefault(name, trial) != trial  # the same one: it was promoted
            tell(f"{plan.sampler}: trial {len(taken)} of {plan.at[-1]}")


class _Clock:
    """Milliseconds by part."""

    def __init__(self) -> None:
        self.cpu: Counter[str] = Counter()
        self.wall: Counter[str] = Counter()

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        yield
        self.cpu[part] += time.process_time_ns() - cpu
        self.wall[part] += time.perf_counter_ns() - wall

    def each(self, trials: int) -> tuple[dict[str, float], dict[str, float]]:
        """(cpu, wall) a trial."""
        cpu, wall = ({part: spent[part] / trials / 1e6 for part in PARTS} for spent in (self.cpu, self.wall))
        return cpu, wall


class _Worker:
    """Takes trials and brings them from rung to rung, by made-up losses."""

    def __init__(self, search: Search, name: str) -> None:
        self.search, self.study, self.name = search, search.study, name
        self.running: Assignment | None = None
        self.losses: list[float] = []
        self.rung = 0  # that the running trial reaches next, from 0

    def turn(self, clock: _Clock) -> bool:
        """Goes on to the next rung, or takes a trial; whether it took one."""
        if self.running is not None:
            self._reach(self.running, clock)
            return False
        gc.freeze()  # the other workers' memory, which a process of its own would not search for garbage
        with clock.on("take"):
            taken = take(self.search, self.name, None)
        if isinstance(taken, Assignment):
            self.running = taken
            record = self.study.record(taken.trial.number)
            self.rung, self.losses = record.passed, _made_up(self.search, record)
            taken.trial.set_user_attr(SEEDS, [derive_seed(record.hash)])
        elif not taken.wait:
            problem = Problem("trials", None, taken.reason, "give a larger space, or ask for fewer trials")
            raise UserError("the study ended too early", [problem])
        return isinstance(taken, Assignment)

    def _reach(self, running: Assignment, clock: _Clock) -> None:
        """Tells the study of the next rung, and of the end where the trial is there or stops."""
        study, trial = self.study, running.trial
        self.rung += 1
        losses, fractions = self.losses[: self.rung], study.space.proxy.rungs
        tokens = round(fractions[self.rung - 1] * study.space.proxy.tokens)
        with clock.on("reach"):
            continues = reach(self.search, trial, self.name, losses, tokens, {"val_loss": losses[-1]})
        if self.rung == len(fractions):
            metrics = {**self.search.facts.of(running.architecture)[0], **dict.fromkeys(LOSSES, losses[-1])}
            values = [metrics[item.name] for item in study.space.objectives]
            with clock.on("end"):
                finish(study, trial, self.name, {METRICS: metrics}, values)
            self.running = None
        elif not continues:
            study.trial_folder(trial.number)
            checkpoint_of(study, trial.number).touch()
            with clock.on("end"):
                pause(self.search, trial, self.name)
            self.running = None


def _made_up(search: Search, record: TrialRecord) -> list[float]:
    """Losses at the rungs, in nats/token: they fall to an end that is lower for more parameters."""
    source = random.Random(record.hash)
    end = 8 - 0.25 * search.facts.features(record)[SUMMARY - 1] + source.gauss(0, 0.1)
    fall = source.gauss(1.5, 0.1)
    return [end + fall * (1 - share) * source.gauss(1, 0.05) for share in search.space.proxy.rungs]
