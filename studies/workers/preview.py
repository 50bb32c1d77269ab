"""A preview of a search, which is not run: its next architectures, time, memory and disk."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.trial import TrialState

from search_spaces.replacements import KEEP, Part, Replacement, Replacements
from studies.library.text import tokens_of_scores
from studies.search.assignment import Assignment, Nothing, take
from studies.search.requeue import is_orphan
from studies.search.search import Search
from studies.storage.attributes import BASELINE, WORKER
from studies.study import Study
from studies.study.copying import copy_study
from studies.study.leases import Lease
from studies.training.devices import pick_device
from studies.training.errors import TrainingFailed
from studies.training.throughput import seconds_per_step
from studies.workers.latency import time_blocks
from studies.workers.proxy import train_settings
from studies.workers.request import SearchRequest
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.architecture.memory import training_bytes
from surgery.files.lock import Lock

FIRST = 6  # architectures that are shown and timed
TIMED_SECONDS = 1.0  # for each, at least


@dataclass(frozen=True)
class Upcoming:
    """One of the next architectures of a search.

    Attributes:
        number: of the trial.
        name: of a baseline, else empty.
        architecture: what is trained.
        begun: share of its training that is done: above 0 where a paused or interrupted trial is resumed.
        seconds: of the rest of its training here, without evaluations; None if it can't be trained here.
        problem: why it can't be.
    """

    number: int
    name: str
    architecture: Architecture
    begun: float
    seconds: float | None
    problem: str = ""


@dataclass(frozen=True)
class Preview:
    """Preview of a search from scratch.

    Attributes:
        first: its next architectures.
        missing: how many the study lacks.
        seconds: expected of all these with all workers, if no trial is stopped early; None: unknown.
        memory: bytes of weights, gradients and optimizer of the largest of the first, without activations.
        disk: bytes of a paused trial's checkpoint, likewise.
    """

    first: tuple[Upcoming, ...]
    missing: int
    seconds: float | None
    memory: int
    disk: int


@dataclass(frozen=True)
class LibraryPreview:
    """Preview of a search in a pretrained model.

    Attributes:
        replacements: that are fitted and scored.
        fit_tokens: text of the fits.
        scored_tokens: that run through the layers from a replacement upwards, for all scores.
        memory: bytes of the original model in float32.
        disk: bytes of all fitted replacements.
    """

    replacements: int
    fit_tokens: int
    scored_tokens: int
    memory: int
    disk: int


class _Noise:
    """Random tokens in place of the text, which a preview does not prepare."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary, self.draw = vocabulary, np.random.default_rng(0)

    def num_sequences(self, split: str, seq_len: int) -> int:
        return 4096

    def batch(self, indices: NDArray[np.int64], seq_len: int) -> NDArray[np.int64]:
        return self.draw.integers(0, self.vocabulary, (len(indices), seq_len + 1))


def preview(
    request: SearchRequest,
    study: Study | None = None,
    on_timed: Callable[[int, int], None] = lambda done, of: None,
) -> Preview:
    """Draw and time the next architectures of a study; nothing is kept.

    Args:
        request: a checked search from scratch.
        study: that would be resumed; None: a new one.
        on_timed: called with the number of architectures timed, and of all.

    Raises:
        UserError: the device can't be used.
    """
    space, device = request.space, pick_device(request.device)
    settings = train_settings(space, request.seed)
    drawn = _next(request, study, device)
    upcoming, times = [], []
    for done, item in enumerate(drawn, 1):
        try:
            noise = _Noise(space.backbone.vocab_size)
            pace = seconds_per_step(settings, TIMED_SECONDS, item.architecture, noise, device)
            times.append(pace * settings.steps * space.proxy.seeds)
            upcoming.append(replace(item, seconds=(1 - item.begun) * times[-1]))
        except TrainingFailed as error:
            upcoming.append(replace(item, problem=str(error).partition("\n")[0]))
        on_timed(done, len(drawn))
    counted = 0 if study is None else sum(record.counted for record in study.records())
    missing = max(0, request.trials - counted)
    each = None if not times else min(median(times), space.proxy.seconds or math.inf)
    needed = (training_bytes(item.architecture, space.proxy.optimizer) for item in upcoming)
    largest = max(needed, default=0)
    seconds = None if each is None else each * math.ceil(missing / request.workers)
    return Preview(tuple(upcoming), missing, seconds, largest, largest)


def preview_library(request: SearchRequest) -> LibraryPreview:
    """Count what a search in a pretrained model would fit and score."""
    space = request.space
    assert space.replacements is not None
    assert space.library is not None
    parts, settings = space.replacements, space.library
    count = sum(label != KEEP for part in parts.parts for label in part.labels)
    model = int(cost(parts.model, "params"))
    scored = count * tokens_of_scores(settings)
    return LibraryPreview(count, settings.fit_tokens, scored, 4 * model, 4 * _new_params(parts))


def _next(request: SearchRequest, study: Study | None, device: torch.device) -> list[Upcoming]:
    """Return the next architectures, drawn in a new study or a copy that is thrown away; not timed yet."""
    drawn: list[Upcoming] = []
    with tempfile.TemporaryDirectory(prefix="nas-preview-") as folder, ExitStack() as held:
        if study is None:
            plan = Study.create(request.study_name, request.space, request.settings("", ""), Path(folder))
        else:
            plan = copy_study(study, Path(folder))
            _hold_leases(study, plan, held)
        lease = held.enter_context(Lease(plan.workers_folder))
        time_blocks(plan, device, lambda stage, done, total: None, lambda: False, lambda line: None)
        search = Search(plan)
        while len(drawn) < FIRST:
            assignment = take(search, lease.worker, request.trials)
            if isinstance(assignment, Nothing):
                break
            drawn.append(_upcoming(plan, assignment))
    return drawn


def _hold_leases(study: Study, plan: Study, held: ExitStack) -> None:
    """Hold leases in a copy of a study for its live workers, so that their trials are left to them."""
    plan.workers_folder.mkdir(exist_ok=True)
    for trial in study.inner.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if (worker := trial.user_attrs.get(WORKER)) and not is_orphan(study, trial):
            lock = Lock(plan.workers_folder / f"{worker}.lock")
            lock.acquire()
            held.callback(lock.release)


def _upcoming(plan: Study, assignment: Assignment) -> Upcoming:
    trial = assignment.trial
    record, proxy = plan.record(trial.number), plan.space.proxy
    begun = (record.tokens or 0) / (record.whole_steps(proxy) * proxy.batch_tokens)
    name = trial.user_attrs.get(BASELINE) or ""
    return Upcoming(trial.number, name, assignment.architecture, begun, None)


def _new_params(parts: Replacements) -> int:
    """Return the parameters of all replacements together."""
    empty = {
        "mixer": Replacement("mixer", "none", "N"),
        "ffn": Replacement("ffn", "none", ffn_dim=0),
    }
    bare = Replacements(
        parts.model,
        tuple(
            Part(part.layer, part.part, (Replacement(part.part, KEEP), empty[part.part]))
            for part in parts.parts
        ),
    )
    without = [row[1] for row in bare.differences("params")]
    return sum(
        difference - nothing
        for part, row, nothing in zip(parts.parts, parts.differences("params"), without, strict=True)
        for label, difference in zip(part.labels, row, strict=True)
        if label != KEEP
    )
