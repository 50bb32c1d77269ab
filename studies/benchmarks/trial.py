"""Time of a search's trial by phase, from the start of the worker process.

The trial is a real one: studies of one baseline each, trained in separate processes as `nas search` would.
The first process trains two studies, the second of which reuses code compiled for the first; a second process
trains the third study, which reuses the cache on disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from search_spaces import SearchSpace, parse_space
from studies.data import TokenData
from studies.latency.timing import summary
from studies.study import Study
from studies.study.settings import StudySettings
from studies.study.trial_record import DONE
from studies.training.devices import pick_device
from studies.training.profiling import Stretches, mark, watching
from studies.workers.proxy import prepare_for
from studies.workers.worker import work
from surgery.config.problems import Problem, UserError
from surgery.config.yaml_source import load_yaml

PHASES = (
    "start", "open", "take", "pace", "build", "compile", "data", "forward", "backward", "optimizer", "replay",
    "evaluation", "storage",
)  # fmt: skip
STEP = ("forward", "backward", "optimizer", "replay")  # `replay`: a whole step as a CUDA graph
USEFUL = (*STEP, "evaluation")
STARTED = "NAS_BENCH_STARTED"  # environment variable: time.time() at the start of the process


@dataclass(frozen=True)
class TrialTiming:
    """Timing of one trial, or the medians of several.

    Attributes:
        seconds: by phase; `start` is the start-up of the process, 0 for its later trials.
        first_step_s: from when the worker has taken the trial to the end of its first step.
        spread: (highest - lowest) / median of the total.
    """

    name: str
    seconds: dict[str, float]
    first_step_s: float
    val_loss: float
    spread: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())

    @property
    def overhead(self) -> float:
        """Share of the total that is neither training nor evaluation."""
        return 1 - sum(self.seconds[name] for name in USEFUL) / self.total

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "total": self.total, "overhead": self.overhead}


@dataclass(frozen=True)
class TrialPlan:
    """Settings of the benchmark; `baseline` None: the first of the space."""

    space: SearchSpace
    baseline: str | None = None
    device: str = "auto"
    compile: str = "auto"
    threads: int = 1
    rounds: int = 1


def measure_trials(plan: TrialPlan, on_trial: Callable[[str], None] = lambda name: None) -> list[TrialTiming]:
    """Time the first trial of a process, a second one with the same kinds of blocks, and a new process's.

    Returns their medians over the rounds.

    Raises:
        UserError: the space has no such baseline, or a trial failed.
    """
    space = _with_one(plan)
    data = prepare_for(space, space.data.corpus, space.data.tokenizer)
    rounds = []
    for _ in range(plan.rounds):
        with tempfile.TemporaryDirectory(prefix="nas-bench-") as scratch:
            folders = [_make(plan, space, data, Path(scratch), name) for name in ("first", "second", "third")]
            on_trial("the first trial of a process and a second one")
            timings = _in_process(plan, folders[:2])
            on_trial("a trial of a new process")
            rounds.append(timings + _in_process(plan, folders[2:]))
    return [_middle(same) for same in zip(*rounds, strict=True)]


def _middle(same: Sequence[TrialTiming]) -> TrialTiming:
    """Return the medians of one trial's rounds."""
    return replace(
        same[0],
        seconds={phase: median(item.seconds[phase] for item in same) for phase in PHASES},
        first_step_s=median(item.first_step_s for item in same),
        spread=summary([item.total for item in same]).spread,
    )


def _with_one(plan: TrialPlan) -> SearchSpace:
    """Return the space with the measured baseline as its only baseline."""
    names = plan.space.baseline_names
    baseline = plan.baseline or next(iter(names), None)
    if baseline not in names:
        rule = f"is not a baseline of the space, which has {', '.join(names) or 'none'}"
        raise UserError("can't measure that", [Problem("baseline", baseline, rule)])
    given = load_yaml(plan.space.source, text=plan.space.text).data
    return parse_space(yaml.safe_dump({**given, "baselines": [baseline]}))


def _make(plan: TrialPlan, space: SearchSpace, data: TokenData, scratch: Path, name: str) -> Path:
    settings = StudySettings(
        corpus=space.data.corpus,
        tokenizer=space.data.tokenizer,
        data_hash=data.content_hash,
        data_folder=str(data.folder.resolve()),
        compile=plan.compile,
        threads=plan.threads,
    )
    return Study.create(name, space, settings, scratch).folder


def _in_process(plan: TrialPlan, folders: Sequence[Path]) -> list[TrialTiming]:
    """Train the studies one after the other in a new process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(plan.threads), STARTED: repr(time.time())}
    command = [sys.executable, "-m", __name__, plan.device, *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        problem = Problem("trial", None, (done.stderr or done.stdout).strip()[-2000:])
        raise UserError("a trial failed", [problem])
    return [TrialTiming(**item) for item in json.loads(done.stdout.splitlines()[-1])]


def _measured(folder: Path, device: str, start: float) -> TrialTiming:
    """Train the study's single trial in this process, which took `start` seconds to start."""
    chosen = pick_device(device)
    log: list[str] = []
    with watching(chosen) as stretches:
        study = Study.open(str(folder))
        work(study, target=1, device=device, log=log.append)
        mark("storage")
    record = study.record(0)
    if record.state != DONE:
        raise UserError("a trial failed", [Problem("trial", None, "; ".join(log))])
    return TrialTiming(
        name=folder.name,
        seconds={**_by_phase(stretches), "start": start},
        first_step_s=_until_first(stretches, "optimizer"),
        val_loss=record.metrics["val_loss"],
    )


def _by_phase(stretches: Stretches) -> dict[str, float]:
    """Return the seconds of each phase.

    The excess of the first forward, backward and optimizer step over the median counts as `compile`: it
    prepares kernels and memory, with or without a compiler, or captures a graph.
    """
    seconds = {phase: sum(stretches.of(phase)) for phase in PHASES}
    for phase in STEP:
        first, *others = stretches.of(phase) or [0.0]
        beyond = max(0.0, first - median(others)) if others else 0.0
        seconds[phase] -= beyond
        seconds["compile"] += beyond
    return seconds


def _until_first(stretches: Stretches, phase: str) -> float:
    """Return the seconds from when the trial was taken to the end of the phase's first stretch."""
    names = [name for name, _ in stretches.stretches]
    taken = names.index("take") + 1
    return sum(seconds for _, seconds in stretches.stretches[taken : names.index(phase) + 1])


def main(device: str, folders: Sequence[str]) -> None:
    """Train the studies of a process and print the timings as a line of JSON."""
    timings = []
    for number, folder in enumerate(folders):
        start = time.time() - float(os.environ[STARTED]) if number == 0 else 0.0
        timings.append(asdict(_measured(Path(folder), device, start)))
    print(json.dumps(timings))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
