"""Overhead of a study in addition to training: suggesting, deciding and storing, per trial, as it grows.

The study is on disk in the embedded storage. Every worker opens it separately, as in a process of its own, so
that each reads what the others wrote; they take turns. Only the losses are synthetic, and cost nothing.
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
from studies.files.defaults import DEFAULT_SAMPLER, DEFAULT_STOPPING
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
from studies.study.settings import StudySettings
from studies.study.trial_record import TrialRecord
from studies.surrogates.descriptors import SUMMARY
from surgery.config.problems import Problem, UserError

PARTS = ("take", "reach", "end")  # suggesting; deciding at every rung; pausing or finishing
WINDOW = 50  # trials before each count over which the means are taken


@dataclass(frozen=True)
class OverheadPlan:
    """Settings of the benchmark. `at` are the rising numbers of architectures at which to report."""

    space: SearchSpace
    sampler: str = DEFAULT_SAMPLER
    stopping: str = DEFAULT_STOPPING
    at: tuple[int, ...] = (500,)
    workers: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Overhead:
    """Milliseconds per trial, by part, after a number of trials.

    Attributes:
        trials: number of trials taken.
        cpu: processor time.
        wall: elapsed time, including waits for the disk.
        duplicates: number of architectures taken a second time so far.
    """

    trials: int
    cpu: dict[str, float]
    wall: dict[str, float]
    duplicates: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "cpu_ms": sum(self.cpu.values()), "wall_ms": sum(self.wall.values())}


def measure_overhead(
    plan: OverheadPlan, on_progress: Callable[[str], None] = lambda line: None
) -> list[Overhead]:
    """Return one row per count in `plan.at`.

    Raises:
        UserError: unknown names, objectives without synthetic values, or a space with fewer architectures.
    """
    check_sampler(plan.sampler)
    check_stopping_rule(plan.stopping)
    for item in plan.space.objectives:
        if item.measured and item.name not in LOSSES:
            rule = f"only {' and '.join(LOSSES)} have synthetic values"
            raise UserError("can't measure this space", [Problem("objectives", item.name, rule)])
    settings = StudySettings(seed=plan.seed, sampler=plan.sampler, stopping=plan.stopping)
    with tempfile.TemporaryDirectory(prefix="nas-bench-") as scratch, ExitStack() as leases:
        folder = Study.create("overhead", plan.space, settings, Path(scratch)).folder
        searches = [Search(Study.open(str(folder))) for _ in range(plan.workers)]
        names = [leases.enter_context(Lease(search.study.workers_folder)).worker for search in searches]
        try:
            return list(
                _grow(plan, [_Worker(*item) for item in zip(searches, names, strict=True)], on_progress)
            )
        finally:
            gc.unfreeze()


def _grow(
    plan: OverheadPlan, workers: Sequence[_Worker], on_progress: Callable[[str], None]
) -> Iterator[Overhead]:
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
            on_progress(f"{plan.sampler}: trial {len(taken)} of {plan.at[-1]}")


class _Clock:
    """Time by part, in nanoseconds."""

    def __init__(self) -> None:
        self.cpu: Counter[str] = Counter()
        self.wall: Counter[str] = Counter()

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Count the time of the block for `part`."""
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        yield
        self.cpu[part] += time.process_time_ns() - cpu
        self.wall[part] += time.perf_counter_ns() - wall

    def each(self, trials: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return (cpu, wall) milliseconds per trial, by part."""
        cpu, wall = ({part: spent[part] / trials / 1e6 for part in PARTS} for spent in (self.cpu, self.wall))
        return cpu, wall


class _Worker:
    """A simulated worker that takes trials and moves them from rung to rung with synthetic losses."""

    def __init__(self, search: Search, name: str) -> None:
        self.search, self.study, self.name = search, search.study, name
        self.running: Assignment | None = None
        self.losses: list[float] = []
        self.rung = 0  # 0-based rung that the running trial reaches next

    def turn(self, clock: _Clock) -> bool:
        """Advance to the next rung, or take a trial; return whether a trial was taken."""
        if self.running is not None:
            self._reach(self.running, clock)
            return False
        gc.freeze()  # other workers' objects, which garbage collection in a separate process would not scan
        with clock.on("take"):
            taken = take(self.search, self.name, None)
        if isinstance(taken, Assignment):
            self.running = taken
            record = self.study.record(taken.trial.number)
            self.rung, self.losses = record.passed, _synthetic_losses(self.search, record)
            taken.trial.set_user_attr(SEEDS, [derive_seed(record.hash)])
        elif not taken.wait:
            problem = Problem("trials", None, taken.reason, "give a larger space, or ask for fewer trials")
            raise UserError("the study ended too early", [problem])
        return isinstance(taken, Assignment)

    def _reach(self, running: Assignment, clock: _Clock) -> None:
        """Report the next rung to the study; finish or pause the trial if it ends there."""
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


def _synthetic_losses(search: Search, record: TrialRecord) -> list[float]:
    """Return synthetic losses at the rungs in nats/token, which end lower for more parameters."""
    source = random.Random(record.hash)
    end = 8 - 0.25 * search.facts.features(record)[SUMMARY - 1] + source.gauss(0, 0.1)
    fall = source.gauss(1.5, 0.1)
    return [end + fall * (1 - share) * source.gauss(1, 0.05) for share in search.space.proxy.rungs]
