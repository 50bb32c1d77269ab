"""Training throughput of an architecture, to convert a budget in seconds into steps before the run starts.

After that, a time-budgeted run is handled exactly like a token-budgeted one: its schedule, rungs and
checkpoints count steps, it resumes where it paused, and its replicates are as long as it was, whatever else
runs on the machine meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from time import perf_counter
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from studies.data import TokenData
from studies.training.batches import batch_indices
from studies.training.devices import to_device
from studies.training.errors import TrainingFailed
from studies.training.lanes import turn
from studies.training.loop import Interrupted
from studies.training.profiling import all_of
from studies.training.settings import TrainSettings
from studies.training.step import UNCAPTURED, TrainStep
from surgery.architecture import Architecture
from surgery.model import HybridLM

BEFORE = UNCAPTURED + 2  # untimed steps, which compile kernels and capture a step
TIMED = 10  # steps between two readings of the clock, each of which synchronizes the device
LONGEST, SHARE = 5.0, 0.05  # longest timing in seconds, and as a share of the budget


class Batches(Protocol):
    """Text in sequences, such as `TokenData`."""

    def num_sequences(self, split: Literal["train"], seq_len: int, /) -> int:
        """Return the number of sequences."""

    def batch(self, indices: NDArray[np.int64], seq_len: int, /) -> NDArray[np.int64]:
        """Return sequences of the training text (n, seq_len + 1)."""


def by_time(
    settings: TrainSettings,
    seconds: float,
    architecture: Architecture,
    data: TokenData,
    device: torch.device,
    should_stop: Callable[[], bool] | None = None,
) -> TrainSettings:
    """Return `settings` with as many tokens as `seconds` of training allow, at most those that they have.

    Raises:
        TrainingFailed: too few steps fit for every rung to have a step of its own.
        Interrupted: `should_stop` returned True between two steps.
    """
    with all_of("pace"):
        least = min(LONGEST, SHARE * seconds)
        pace = seconds_per_step(settings, least, architecture, data, device, should_stop)
    steps = max(1, min(settings.steps, int(seconds / pace)))
    limited = replace(settings, tokens=steps * settings.batch_tokens)
    if len(limited.eval_steps) < len(settings.eval_steps):
        raise TrainingFailed(
            f"steps of {pace:.3g} s: {seconds:g} s are too short for {len(settings.eval_steps)} rungs"
        )
    return limited


def seconds_per_step(
    settings: TrainSettings,
    at_least: float,
    architecture: Architecture,
    data: Batches,
    device: torch.device,
    should_stop: Callable[[], bool] | None = None,
) -> float:
    """Return the seconds per training step of a throwaway model on the first batches.

    Args:
        at_least: seconds to time for, at least.
        data: where the batches come from.

    Raises:
        Interrupted: `should_stop` returned True between two steps.
        TrainingFailed: the loss is not finite, or a single sequence does not fit into memory.
    """
    with turn():
        train_step = TrainStep(HybridLM(architecture).to(device).train(), settings, device)
    batches = batch_indices(data.num_sequences("train", settings.seq_len), settings)
    started = 0.0
    for number in count(1):
        if should_stop is not None and should_stop():
            raise Interrupted
        rows = to_device(data.batch(next(batches), settings.seq_len), device)
        train_step.step(number, rows[:, :-1], rows[:, 1:])
        if number < BEFORE or (number - BEFORE) % TIMED:
            continue
        train_step.check(number)  # waits for the device
        if number == BEFORE:
            started = perf_counter()
        elif (taken := perf_counter() - started) >= at_least:
            break
    return taken / (number - BEFORE)
