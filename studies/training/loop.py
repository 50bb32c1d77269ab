"""The training loop under a token budget: one for proxies and for `nas train`, without Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studies.data import TokenData
from studies.files.curve import CurveWriter, Stopwatch, log_steps
from studies.training.batches import batch_indices, check_data
from studies.training.best import Best
from studies.training.checkpoints import load_state, save_state
from studies.training.devices import peak_memory, reset_peak_memory, to_device
from studies.training.lanes import turn
from studies.training.memory import retry_smaller
from studies.training.objective import Objective
from studies.training.profiling import mark
from studies.training.rng_state import random_state, set_random_state
from studies.training.settings import TrainSettings
from studies.training.step import TrainStep
from studies.training.validation import Evaluation, evaluate
from surgery.model import HybridLM


@dataclass(frozen=True)
class Progress:
    """Progress of a run, for display. Losses in nats/token unless the objective has another unit."""

    step: int
    steps: int
    tokens: int
    loss: float
    tokens_per_s: float
    kl: float | None = None  # from the teacher, if there is one
    val_loss: float | None = None  # the last held-out loss


@dataclass(frozen=True)
class TrainResult:
    """Measurements of a finished run. Losses in nats/token, `val_bpb` in bits/byte, memory in bytes.

    Attributes:
        losses: held-out losses at each of `TrainSettings.eval_at`; the last is `val_loss`.
    """

    val_loss: float
    val_bpb: float
    train_loss: float
    tokens: int
    seconds: float
    train_tokens_per_s: float
    peak_memory: int
    epochs: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Rung:
    """Measurements of a run at an evaluation point; units as in TrainResult."""

    losses: tuple[float, ...]  # held-out losses in nats/token, one per evaluation so far
    tokens: int
    val_bpb: float
    train_tokens_per_s: float
    peak_memory: int


class Interrupted(Exception):
    """The caller asked to stop."""


class Stopped(Exception):
    """The run was paused at a rung; its checkpoint is written."""


def train(
    model: HybridLM,
    data: TokenData,
    settings: TrainSettings,
    *,
    seed: int,
    device: torch.device,
    curve: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    at_rung: Callable[[Rung], bool] | None = None,
    checkpoint: Path | None = None,
    decided: int | None = None,
    save_at: frozenset[int] = frozenset(),
    objective: Objective | None = None,
    scales: Mapping[str, float] | None = None,
    best: Best | None = None,
    skip: int = 0,
) -> TrainResult:
    """Train `model` in place. A run that is paused at a rung and resumed ends like an uninterrupted one.

    Args:
        seed: of the HDPL noise; the caller seeds the initial weights.
        curve: file for JSON lines with step, tokens and losses, flushed line by line.
        at_rung: called after every evaluation but the last; returns True to continue.
        checkpoint: file that a paused run is written to, and resumed from if it exists.
        decided: number of rungs at which the run is known to continue; `at_rung` is called again for a later
            rung that the checkpoint was written at. None: the run continues from any checkpoint.
        save_at: steps after which `checkpoint` is written, so that a killed run resumes from there.
        objective: the loss to minimise; None: cross-entropy with the text.
        scales: factors of the learning rate by parameter name; 1 for those that are missing.
        best: receives the weights after every evaluation.
        skip: batches of the text to skip, which an earlier run has trained on.

    Raises:
        Stopped: `at_rung` returned False.
        TrainingFailed: the loss is not finite or exploded; the reason is the message.
        Interrupted: `should_stop` returned True between two steps or two batches of an evaluation.
        UserError: model, data and settings don't fit each other.
    """
    check_data(data, settings, model.architecture.backbone.vocab_size)

    def pause() -> None:
        if should_stop is not None and should_stop():
            raise Interrupted

    batches = batch_indices(data.num_sequences("train", settings.seq_len), settings)
    with turn():
        reset_peak_memory(device)
        model.to(device).train()
        torch.manual_seed(seed)
        run = _Run(model, data, settings, device, objective, scales, best)
    if checkpoint is not None and checkpoint.is_file():
        with turn():
            run.restore(load_state(checkpoint))
        # The worker may have died after it wrote this, before the study knew that the run is paused.
        pending = decided is not None and len(run.losses) > decided and run.evaluation is not None
        if pending and at_rung is not None and not at_rung(run.rung()):
            raise Stopped
    with CurveWriter(curve, after=run.step) as run.writer:
        for step, indices in enumerate(islice(batches, skip + run.step, skip + settings.steps), run.step + 1):
            pause()
            run.advance(step, indices)
            if step in run.log_steps:
                progress = run.log(step)
                if on_step is not None:
                    on_step(progress)
            if step in settings.eval_steps:
                run.evaluate(step, pause)
                if at_rung is not None and not at_rung(run.rung()) and step < settings.steps:
                    assert checkpoint is not None, "a run that may be paused has a file for its state"
                    save_state(checkpoint, run.state())
                    raise Stopped
            if checkpoint is not None and step in save_at:
                save_state(checkpoint, run.state())
    return run.result()


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        model: HybridLM,
        data: TokenData,
        settings: TrainSettings,
        device: torch.device,
        objective: Objective | None,
        scales: Mapping[str, float] | None,
        best: Best | None,
    ) -> None:
        self.model, self.data, self.settings, self.device = model, data, settings, device
        self.train_step = TrainStep(model, settings, device, objective, scales)
        self.best = best
        self.log_steps = log_steps(settings.steps) | settings.eval_steps
        self.train_loss = math.nan
        self.evaluation: Evaluation | None = None
        self.losses: list[float] = []
        self.writer = CurveWriter(None)
        self.step = self.peak_before = 0
        self.watch = Stopwatch()

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on."""
        with turn():
            random = random_state(self.device)
        return {
            "step": self.step,
            "losses": self.losses,
            "evaluation": None if self.evaluation is None else asdict(self.evaluation),
            "first_loss": self.train_step.first(),
            "seconds": self.watch.seconds,
            "peak_memory": self.peak_memory,
            "model": self.model.state_dict(),
            "optimizer": self.train_step.optimizer.state_dict(),
            "random": random,
            "train_loss": self.train_loss,
            **({"best": self.best.state()} if self.best is not None else {}),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved `state`."""
        self.step, self.losses, self.peak_before = state["step"], state["losses"], state["peak_memory"]
        self.model.load_state_dict(state["model"])
        # older checkpoints lack it: the next step then counts as the first
        self.train_step.restore(state["optimizer"], state.get("first_loss"))
        set_random_state(state["random"], self.device)
        self.watch = Stopwatch(state["seconds"])
        evaluation = state.get("evaluation")  # older checkpoints have none
        self.evaluation = None if evaluation is None else Evaluation(**evaluation)
        self.train_loss = state.get("train_loss", math.nan)  # likewise
        if self.best is not None:
            self.best.restore(state["best"])

    @property
    def peak_memory(self) -> int:
        """The peak in bytes, earlier processes of the run included."""
        return max(self.peak_before, peak_memory(self.device))

    @property
    def tokens(self) -> int:
        """Tokens that the run has trained on so far."""
        return self.step * self.settings.batch_tokens

    def rung(self) -> Rung:
        """Return the measurements of the last evaluation."""
        assert self.evaluation is not None, "called after an evaluation"
        speed = self.tokens / self.watch.seconds
        return Rung(tuple(self.losses), self.tokens, self.evaluation.val_bpb, speed, self.peak_memory)

    def advance(self, step: int, indices: np.ndarray) -> None:
        """Train on the sequences `indices` as step number `step`."""
        self.step = step
        mark("storage")
        rows = to_device(self.data.batch(indices, self.settings.seq_len), self.device)
        mark("data")
        self.train_step.step(step, rows[:, :-1], rows[:, 1:])

    def log(self, step: int) -> Progress:
        """Write a point of the curve and return the progress.

        Raises:
            TrainingFailed: the last step's loss or gradient is not finite, or the loss exploded.
        """
        train_step = self.train_step
        self.train_loss, norm = train_step.check(step)
        tokens = step * self.settings.batch_tokens
        terms = {name: value.item() for name, value in train_step.terms.items() if name != "loss"}
        self.writer.write(
            step=step, tokens=tokens, loss=self.train_loss, **terms, lr=train_step.lr, grad_norm=norm
        )
        speed = tokens / max(self.watch.seconds, 1e-9)
        held_out = self.losses[-1] if self.losses else None
        return Progress(step, self.settings.steps, tokens, self.train_loss, speed, terms.get("kl"), held_out)

    def evaluate(self, step: int, pause: Callable[[], None]) -> None:
        """Measure the held-out loss; the stopwatch is paused meanwhile."""
        settings = self.settings

        def held_out(sequences: int) -> Evaluation:
            return evaluate(
                self.model, self.data, seq_len=settings.seq_len, max_tokens=settings.eval_tokens,
                batch_tokens=sequences * settings.seq_len, device=self.device,
                cpu_precision=settings.cpu_precision, on_batch=pause,
            )  # fmt: skip

        sequences = self.train_step.micro_batch or settings.batch_tokens // settings.seq_len
        with self.watch.paused(), turn():
            # a captured step holds the memory of a whole step
            result, _ = retry_smaller(held_out, sequences, free_memory=self.train_step.drop_capture)
        self.train_step.check_alive(result.val_loss, 0.0, step)
        self.writer.write(
            step=step, tokens=step * settings.batch_tokens, val_loss=result.val_loss, val_bpb=result.val_bpb
        )
        self.evaluation = result
        self.losses.append(result.val_loss)
        if self.best is not None:
            self.best.offer(self.model, result, step)

    def result(self) -> TrainResult:
        """Return the measurements of the finished run."""
        assert self.evaluation is not None, "the last step is evaluated"
        settings = self.settings
        tokens, seconds = self.tokens, self.watch.seconds
        return TrainResult(
            val_loss=self.evaluation.val_loss,
            val_bpb=self.evaluation.val_bpb,
            train_loss=self.train_loss,
            tokens=tokens,
            seconds=seconds,
            train_tokens_per_s=tokens / seconds,
            peak_memory=self.peak_memory,
            epochs=tokens / (self.data.num_sequences("train", settings.seq_len) * settings.seq_len),
            losses=tuple(self.losses),
        )
