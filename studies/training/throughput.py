"""How fast an architecture trains here: a budget in seconds becomes one in steps, before the run starts.

From then on a run by time is a run like any other. Its schedule, rungs and checkpoints count steps, it goes
on where it stopped, and its repeats are as long as it was, whatever else the machine does meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from time import perf_counter

import torch

from studies.data import TokenData
from studies.training.devices import to_device
from studies.training.errors import TrainingFailed
from studies.training.loop import Interrupted, batch_indices
from studies.training.profiling import all_of
from studies.training.settings import TrainSettings
from studies.training.step import UNRECORDED, Descent
from surgery.architecture import Architecture
from surgery.model import HybridLM

BEFORE = UNRECORDED + 2  # steps that are not timed: kernels are compiled, a step is recorded
TIMED = 10  # steps between two looks at the clock, for which the device is waited for
LONGEST, SHARE = 5.0, 0.05  # seconds that are timed, and the most of the budget they may be


def by_time(
    settings: TrainSettings,
    seconds: float,
    architecture: Architecture,
    data: TokenData,
    device: torch.device,
    should_stop: Callable[[], bool] | None = None,
) -> TrainSettings:
    """`settings` with as many tokens as fit into so many seconds of training, at most what they have.

    Raises:
        TrainingFailed: too few steps fit for the rungs to be told apart.
        Interrupted: `should_stop` said so between two steps.
    """
    with all_of("pace"):
        least = min(LONGEST, SHARE * seconds)
        pace = seconds_per_step(settings, least, architecture, data, device, should_stop)
    steps = max(1, min(settings.steps, int(seconds / pace)))
    found = replace(settings, tokens=steps * settings.batch_tokens)
    if len(found.eval_steps) < len(settings.eval_steps):
        raise TrainingFailed(
            f"steps of {pace:.3g} s: {seconds:g} s are too short for {len(settings.eval_steps)} rungs"
        )
    return found


def seconds_per_step(
    settings: TrainSettings,
    at_least: float,
    architecture: Architecture,
    data: TokenData,
    device: torch.device,
    should_stop: Callable[[], bool] | None = None,
) -> float:
    """Of a model that is thrown away, on the first batches; timed for `at_least` so many seconds."""
    descent = Descent(HybridLM(architecture).to(device).train(), settings, device)
    batches = batch_indices(data.windows("train", settings.seq_len), settings)
    started = 0.0
    for number in count(1):
        if should_stop is not None and should_stop():
            raise Interrupted
        rows = to_device(data.batch(next(batches), settings.seq_len), device)
        descent.step(number, rows[:, :-1], rows[:, 1:])
        if number < BEFORE or (number - BEFORE) % TIMED:
            continue
        descent.check(number)  # waits for the device
        if number == BEFORE:
            started = perf_counter()
        elif (taken := perf_counter() - started) >= at_least:
            break
    return taken / (number - BEFORE)
