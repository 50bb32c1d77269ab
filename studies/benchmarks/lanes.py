"""Tokens/s of several trainings in the lanes of one process, and whether each has the loss of one alone."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from studies.training.devices import peak_memory, reset_peak_memory, to_device
from studies.training.lanes import Lanes, turn
from studies.training.settings import TrainSettings
from studies.training.step import UNCAPTURED, TrainStep
from studies.workers.crew import SWITCH_SECONDS
from surgery.architecture import Architecture
from surgery.model import HybridLM

BEFORE = UNCAPTURED + 2  # untimed steps, which compile kernels and capture a step
CHECK_EVERY = 6  # steps between two looks at the loss, as in a curve of 200 points over 1,220 steps


@dataclass(frozen=True)
class LanesTiming:
    """Timing of so many lanes that train the same architecture.

    Attributes:
        tokens_per_s: of all lanes together.
        losses: the last training loss of each lane in nats/token; a lane's number is its seed.
        peak_memory: the most bytes of one lane.
    """

    lanes: int
    tokens_per_s: float
    losses: tuple[float, ...]
    peak_memory: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure_lanes(
    architecture: Architecture, settings: TrainSettings, count: int, steps: int, device: torch.device
) -> LanesTiming:
    """Train `steps` steps on random tokens in each of `count` lanes.

    Raises:
        TrainingFailed: a model does not train, or does not fit into memory.
    """
    lanes, ready = Lanes(device), threading.Barrier(count)
    results: dict[int, tuple[float, float, float, int]] = {}  # start, end, loss, peak by lane
    errors: list[BaseException] = []

    def lane(index: int) -> None:
        try:
            with lanes.lane():
                results[index] = _train(architecture, settings, index, steps, device, ready)
        except BaseException as error:
            errors.append(error)
            ready.abort()

    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        threads = [threading.Thread(target=lane, args=(index,)) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    if errors:
        raise next(
            (error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0]
        )
    starts, ends, losses, peaks = zip(*(results[index] for index in range(count)), strict=True)
    tokens = count * steps * settings.batch_tokens
    return LanesTiming(count, tokens / (max(ends) - min(starts)), losses, max(peaks))


def _train(
    architecture: Architecture,
    settings: TrainSettings,
    seed: int,
    steps: int,
    device: torch.device,
    ready: threading.Barrier,
) -> tuple[float, float, float, int]:
    """Train a model, timed from when all lanes are ready. Returns (start, end, last loss, peak memory)."""
    with turn():
        reset_peak_memory(device)
        torch.manual_seed(seed)
        train_step = TrainStep(HybridLM(architecture).to(device).train(), settings, device)
    shape = (settings.batch_tokens // settings.seq_len, settings.seq_len + 1)
    generator = np.random.default_rng(seed)
    start = 0.0
    for number in range(1, BEFORE + steps + 1):
        rows = to_device(generator.integers(architecture.backbone.vocab_size, size=shape), device)
        train_step.step(number, rows[:, :-1], rows[:, 1:])
        if number == BEFORE:
            train_step.check(number)
            ready.wait()
            start = time.perf_counter()
        elif number % CHECK_EVERY == 0:
            train_step.check(number)
    loss, _ = train_step.check(number)
    return start, time.perf_counter(), loss, peak_memory(device)
