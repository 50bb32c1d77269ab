"""Trains one architecture under a token budget: one loop for proxies and for `nas train`, without Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from studies.curve import CurveWriter, Stopwatch, log_steps
from studies.data import TokenData
from studies.devices import autocast, peak_memory, reset_peak_memory
from studies.evaluate import Evaluation, evaluate
from surgery.model import HybridLM
from surgery.problems import Problems

# by the rule `roles`: the learning rate of embeddings and vectors over that of matrices
EMBEDDING_RATE = 6.0


@dataclass(frozen=True)
class TrainSettings:
    """Budget and recipe. Tokens are counted, not steps, so that architectures compare."""

    tokens: int
    seq_len: int
    batch_tokens: int
    lr: float = 3e-3
    lr_rule: str = "uniform"  # or `roles`, see `make_optimizer`
    warmup: float = 0.05  # share of the steps
    final_lr: float = 0.1  # share of the peak that the cosine ends at
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    eval_tokens: int = 65536
    eval_at: tuple[float, ...] = (1.0,)  # shares of the budget at which held-out loss is taken
    order_seed: int = 0  # data order: the same for all architectures of a study

    @property
    def steps(self) -> int:
        return max(1, self.tokens // self.batch_tokens)

    @property
    def eval_steps(self) -> frozenset[int]:
        """Steps after which the held-out loss is taken; the last is one of them."""
        return frozenset(max(1, round(share * self.steps)) for share in (*self.eval_at, 1.0))


@dataclass(frozen=True)
class Progress:
    """Where a run is, for whoever watches."""

    step: int
    steps: int
    tokens: int
    loss: float
    tokens_per_s: float


@dataclass(frozen=True)
class TrainResult:
    """What a finished run measured. Losses in nats/token, `val_bpb` in bits/byte, memory in bytes."""

    val_loss: float
    val_bpb: float
    train_loss: float
    tokens: int
    seconds: float
    train_tokens_per_s: float
    peak_memory: int
    epochs: float


class TrainingFailed(Exception):
    """The run has no result: the loss became NaN, infinite or exploded."""


class Interrupted(Exception):
    """The caller asked to stop."""


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
) -> TrainResult:
    """Trains `model` in place.

    Args:
        seed: of the HDPL noise; the caller seeds the initial weights.
        curve: JSON lines with step, tokens and the losses, written as they come.

    Raises:
        TrainingFailed: the loss is not finite or exploded; the reason is the message.
        Interrupted: `should_stop` said so between two steps or two batches of an evaluation.
        UserError: model, data and settings don't fit each other.
    """
    check_data(data, settings, model.architecture.backbone.vocab_size)
    model.to(device).train()
    torch.manual_seed(seed)
    reset_peak_memory(device)

    def pause() -> None:
        if should_stop is not None and should_stop():
            raise Interrupted

    batches = batch_indices(data.windows("train", settings.seq_len), settings)
    with CurveWriter(curve) as writer:
        run = _Run(model, data, settings, device, writer)
        for step, indices in enumerate(islice(batches, settings.steps), start=1):
            pause()
            run.train_step(step, indices)
            if step in run.log_steps:
                progress = run.log(step)
                if on_step is not None:
                    on_step(progress)
            if step in settings.eval_steps:
                run.evaluate(step, pause)
    return run.result()


class _Run:
    """The state of one training run."""

    def __init__(
        self, model: HybridLM, data: TokenData, settings: TrainSettings, device: torch.device,
        writer: CurveWriter,
    ) -> None:  # fmt: skip
        self.model, self.data, self.settings, self.device, self.writer = model, data, settings, device, writer
        self.descent = Descent(model, settings, device)
        self.log_steps = log_steps(settings.steps) | settings.eval_steps
        self.train_loss = math.nan
        self.evaluation: Evaluation | None = None
        self.watch = Stopwatch()

    def train_step(self, step: int, indices: np.ndarray) -> None:
        rows = torch.from_numpy(self.data.batch(indices, self.settings.seq_len)).to(self.device)
        self.descent.step(step, rows[:, :-1], rows[:, 1:])

    def log(self, step: int) -> Progress:
        """Writes a point of the curve.

        Raises:
            TrainingFailed: the last step's loss or gradient is not finite, or the loss exploded.
        """
        descent = self.descent
        self.train_loss, norm = descent.check(step)
        tokens = step * self.settings.batch_tokens
        self.writer.write(
            step=step, tokens=tokens, loss=self.train_loss, auxiliary=descent.auxiliary.item(),
            lr=descent.lr, grad_norm=norm,
        )  # fmt: skip
        speed = tokens / max(self.watch.seconds, 1e-9)
        return Progress(step, self.settings.steps, tokens, self.train_loss, speed)

    def evaluate(self, step: int, pause: Callable[[], None]) -> None:
        """Takes the held-out loss; the clock stands meanwhile."""
        settings = self.settings
        with self.watch.paused():
            found = evaluate(
                self.model, self.data, seq_len=settings.seq_len, max_tokens=settings.eval_tokens,
                batch_tokens=settings.batch_tokens, device=self.device, on_batch=pause,
            )  # fmt: skip
        _check_alive(found.val_loss, 0.0, self.descent.ceiling, step)
        self.writer.write(
            step=step, tokens=step * settings.batch_tokens, val_loss=found.val_loss, val_bpb=found.val_bpb
        )
        self.evaluation = found

    def result(self) -> TrainResult:
        assert self.evaluation is not None, "the last step is evaluated"
        settings = self.settings
        tokens, seconds = settings.steps * settings.batch_tokens, self.watch.seconds
        return TrainResult(
            val_loss=self.evaluation.val_loss,
            val_bpb=self.evaluation.val_bpb,
            train_loss=self.train_loss,
            tokens=tokens,
            seconds=seconds,
            train_tokens_per_s=tokens / seconds,
            peak_memory=peak_memory(self.device),
            epochs=tokens / (self.data.windows("train", settings.seq_len) * settings.seq_len),
        )


class Descent:
    """AdamW along its schedule, a batch at a time. Losses stay on the device until they are read."""

    def __init__(self, model: HybridLM, settings: TrainSettings, device: torch.device) -> None:
        self.model, self.settings, self.device = model, settings, device
        self.optimizer = make_optimizer(model, settings, device)
        self.ceiling = 3 * math.log(model.architecture.backbone.vocab_size)  # three times a uniform guess

    def step(self, number: int, inputs: Tensor, targets: Tensor) -> None:
        """One optimizer step on (b, t) tokens; a target of -100 does not count. Steps are numbered from 1."""
        self.lr = self.settings.lr * schedule(number, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["scale"]
        with autocast(self.device):
            self.loss, self.auxiliary = self.model.loss(inputs, targets)
        total: Tensor = self.loss + self.auxiliary
        total.backward()
        self.norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def check(self, number: int) -> tuple[float, float]:
        """(loss, gradient norm) of the last step.

        Raises:
            TrainingFailed: one of them is not finite, or the loss exploded.
        """
        loss, norm = self.loss.item(), self.norm.item()
        _check_alive(loss, norm, self.ceiling, number)
        return loss, norm


def schedule(step: int, settings: TrainSettings) -> float:
    """Share of the peak learning rate at a step from 1: linear warm-up, then cosine to `final_lr`."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step <= warmup:
        return step / warmup
    done = (step - warmup) / max(1, settings.steps - warmup)
    return settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: nn.Module, settings: TrainSettings, device: torch.device) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on norms, biases, embeddings and gates.

    A group's `scale` is its share of the learning rate. By the rule `uniform` it is 1. By `roles` embeddings,
    tied head or not, norms, biases and gates have EMBEDDING_RATE: muP and its kin let what does not grow with
    the width move faster than matrices (arXiv 2203.03466, table 8; 2407.05872). Looped matrices have no rate
    of their own: lr / passes was ahead after 100 steps, but even after 400 (3 passes) or behind (2 passes).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    exempt = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    roles = settings.lr_rule == "roles"
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and id(parameter) not in exempt and not name.endswith("loop_gate")
        scale = EMBEDDING_RATE if roles and not matrix else 1.0
        groups.setdefault((settings.weight_decay if matrix else 0.0, scale), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "scale": scale}
            for (decay, scale), parameters in sorted(groups.items(), reverse=True)
        ],
        lr=settings.lr, betas=settings.betas, fused=device.type in ("cpu", "cuda"),
    )  # fmt: skip


def batch_indices(windows: int, settings: TrainSettings) -> Iterator[np.ndarray]:
    """Window numbers of each step, reshuffled every epoch; the order depends on `order_seed` alone."""
    size = settings.batch_tokens // settings.seq_len
    queue = np.empty(0, dtype=np.int64)
    epoch = 0
    while True:
        while len(queue) < size:
            shuffled = np.random.default_rng((settings.order_seed, epoch)).permutation(windows)
            queue = np.concatenate((queue, shuffled))
            epoch += 1
        yield queue[:size]
        queue = queue[size:]


def check_data(data: TokenData, settings: TrainSettings, vocab_size: int) -> None:
    """Raises:
    UserError: the tokens don't fit the model or the budget.
    """
    problems = Problems()
    if data.vocab_size > vocab_size:
        rule = f"must be at least the tokenizer's {data.vocab_size}"
        problems.add("backbone.vocab_size", vocab_size, rule, "or prepare the data with a smaller one")
    if settings.batch_tokens < settings.seq_len or settings.batch_tokens % settings.seq_len:
        problems.add(
            "batch_tokens", settings.batch_tokens, f"must be a multiple of seq_len {settings.seq_len}"
        )
    for split in ("train", "val"):
        if data.windows(split, settings.seq_len) < 1:
            rule = f"must hold a window of {settings.seq_len} + 1 tokens"
            problems.add(
                f"{split} tokens", len(data.tokens(split)), rule, "use more text or a smaller seq_len"
            )
    problems.raise_if_any("model and data don't fit")


def _check_alive(loss: float, norm: float, ceiling: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingFailed(f"the loss became {loss} at step {step}")
    if not math.isfinite(norm):
        raise TrainingFailed(f"the gradient norm became {norm} at step {step}")
    if loss > ceiling:
        raise TrainingFailed(
            f"the loss exploded to {loss:.1f} nats/token at step {step} (limit {ceiling:.1f})"
        )
