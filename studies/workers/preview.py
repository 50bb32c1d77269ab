"""A preview of a search, which is not run: its first architectures, time, memory and disk."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from search_spaces.replacements import KEEP, Part, Replacement, Replacements
from studies.library.text import tokens_of_scores
from studies.search.assignment import Nothing, take
from studies.search.search import Search
from studies.storage.attributes import BASELINE
from studies.study import Study
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

FIRST = 6  # architectures that are shown and timed
TIMED_SECONDS = 1.0  # for each, at least


@dataclass(frozen=True)
class Upcoming:
    """One of the first architectures of a search.

    Attributes:
        name: of a baseline, else empty.
        architecture: what is trained.
        seconds: of its training here, without evaluations; None if it can't be trained here.
        problem: why it can't be.
    """

    name: str
    architecture: Architecture
    seconds: float | None
    problem: str = ""


@dataclass(frozen=True)
class Preview:
    """Preview of a search from scratch.

    Attributes:
        first: its first architectures.
        seconds: expected of the search with all its workers, if no trial is stopped early; None: unknown.
        memory: bytes of weights, gradients and optimizer of the largest of the first, without activations.
        disk: bytes of a paused trial's checkpoint, likewise.
    """

    first: tuple[Upcoming, ...]
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


def preview(request: SearchRequest, on_timed: Callable[[int, int], None] = lambda done, of: None) -> Preview:
    """Draw and time the first architectures of a new study; nothing is kept.

    Args:
        request: a checked search from scratch.
        on_timed: called with the number of architectures timed, and of all.

    Raises:
        UserError: the device can't be used.
    """
    space, device = request.space, pick_device(request.device)
    settings = train_settings(space, request.seed)
    drawn = _first(request, device)
    upcoming = []
    for done, (name, architecture) in enumerate(drawn, 1):
        try:
            noise = _Noise(space.backbone.vocab_size)
            pace = seconds_per_step(settings, TIMED_SECONDS, architecture, noise, device)
            upcoming.append(Upcoming(name, architecture, pace * settings.steps * space.proxy.seeds))
        except TrainingFailed as error:
            upcoming.append(Upcoming(name, architecture, None, str(error).partition("\n")[0]))
        on_timed(done, len(drawn))
    times = [item.seconds for item in upcoming if item.seconds is not None]
    each = None if not times else min(median(times), space.proxy.seconds or math.inf)
    largest = max((int(cost(item.architecture, "params")) for item in upcoming), default=0)
    seconds = None if each is None else each * math.ceil(request.trials / request.workers)
    return Preview(tuple(upcoming), seconds, training_bytes(largest), training_bytes(largest))


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


def _first(request: SearchRequest, device: torch.device) -> list[tuple[str, Architecture]]:
    """Return the first architectures of a new study, which is made elsewhere and thrown away."""
    drawn: list[tuple[str, Architecture]] = []
    with tempfile.TemporaryDirectory(prefix="nas-preview-") as folder:
        study = Study.create(request.study_name, request.space, request.settings("", ""), Path(folder))
        with Lease(study.workers_folder) as lease:
            time_blocks(study, device, lambda stage, done, total: None, lambda: False, lambda line: None)
            search = Search(study)
            while len(drawn) < min(FIRST, request.trials):
                assignment = take(search, lease.worker, None)
                if isinstance(assignment, Nothing):
                    break
                name = assignment.trial.user_attrs.get(BASELINE) or ""
                drawn.append((name, assignment.architecture))
    return drawn


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
