"""Trains one architecture under a token budget. Needs no Optuna; a proxy and `nas train` are the same loop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from studies.data import TokenData
from studies.devices import autocast, peak_memory
from studies.evaluate import Evaluation, evaluate
from surgery.model import HybridLM
from surgery.problems import Problem, UserError

CURVE_POINTS = 200  # at most so many training points on disk, however long the run


@dataclass(frozen=True)
class TrainSettings:
    """Budget and recipe. Tokens are counted, not steps, so that architectures compare."""

    tokens: int
    seq_len: int
    batch_tokens: int
    lr: float = 3e-3
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
    """What a finished run measured."""

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
        Interrupted: `should_stop` said so between two steps.
        UserError: the corpus has no full window.
    """
    check_data(data, settings, model.architecture.backbone.vocab_size)
    model.to(device).train()
    optimizer = make_optimizer(model, settings, device)
    batches = batch_indices(data.windows("train", settings.seq_len), settings)
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    evaluations = sorted({max(1, round(share * settings.steps)) for share in (*settings.eval_at, 1.0)})
    log_every = max(1, settings.steps // CURVE_POINTS)
    ceiling = 3 * math.log(model.architecture.backbone.vocab_size)  # three times a uniform guess
    writer = CurveWriter(curve)
    evaluation: Evaluation | None = None
    trained_for, loss_value = 0.0, math.nan
    started = time.perf_counter()
    for step, indices in enumerate(batches, start=1):
        if should_stop is not None and should_stop():
            raise Interrupted
        lr = settings.lr * schedule(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = lr
        rows = torch.from_numpy(data.batch(indices, settings.seq_len)).to(device, non_blocking=True)
        with autocast(device):
            loss, auxiliary = model.loss(rows[:, :-1], rows[:, 1:])
        (loss + auxiliary).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last = step == settings.steps
        if step % log_every == 0 or step in evaluations or step == 1:
            loss_value = loss.item()
            _check_alive(loss_value, norm.item(), ceiling, step)
            elapsed = trained_for + time.perf_counter() - started
            tokens = step * settings.batch_tokens
            writer.write(
                step=step,
                tokens=tokens,
                loss=loss_value,
                auxiliary=auxiliary.item(),
                lr=lr,
                grad_norm=norm.item(),
            )
            if on_step is not None:
                on_step(Progress(step, settings.steps, tokens, loss_value, tokens / max(elapsed, 1e-9)))
        if step in evaluations:
            trained_for += time.perf_counter() - started
            evaluation = evaluate(
                model, data, seq_len=settings.seq_len, max_tokens=settings.eval_tokens,
                batch_tokens=settings.batch_tokens, device=device,
            )  # fmt: skip
            _check_alive(evaluation.val_loss, 0.0, ceiling, step)
            writer.write(step=step, tokens=step * settings.batch_tokens, **asdict_val(evaluation))
            started = time.perf_counter()
        if last:
            break
    assert evaluation is not None
    tokens = settings.steps * settings.batch_tokens
    return TrainResult(
        val_loss=evaluation.val_loss,
        val_bpb=evaluation.val_bpb,
        train_loss=loss_value,
        tokens=tokens,
        seconds=trained_for,
        train_tokens_per_s=tokens / trained_for,
        peak_memory=peak_memory(device),
        epochs=tokens / (data.windows("train", settings.seq_len) * settings.seq_len),
    )


def schedule(step: int, settings: TrainSettings) -> float:
    """Share of the peak learning rate at a step from 1: linear warm-up, then cosine to `final_lr`."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step <= warmup:
        return step / warmup
    done = (step - warmup) / max(1, settings.steps - warmup)
    return settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: nn.Module, settings: TrainSettings, device: torch.device) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on norms, biases, embeddings and gates."""
    decayed, plain = [], []
    exempt = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and id(parameter) not in exempt and not name.endswith("loop_gate")
        (decayed if matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=settings.betas, fused=device.type in ("cpu", "cuda")
    )


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
    found = []
    if data.vocab_size > vocab_size:
        rule = f"must be at least the tokenizer's {data.vocab_size}"
        found.append(
            Problem("backbone.vocab_size", vocab_size, rule, "or prepare the data with a smaller one")
        )
    for split in ("train", "val"):
        if data.windows(split, settings.seq_len) < 1:
            have = len(data.tokens(split))
            found.append(
                Problem(f"{split} tokens", have, f"must hold a window of {settings.seq_len} + 1 tokens")
            )
    if found:
        raise UserError("model and data don't fit", found)


class CurveWriter:
    """JSON lines, flushed one by one, so that a killed run leaves what it had."""

    def __init__(self, path: Path | None) -> None:
        self.file = path.open("w", encoding="utf-8") if path is not None else None

    def write(self, **values: float) -> None:
        if self.file is not None:
            self.file.write(json.dumps(values) + "\n")
            self.file.flush()


def asdict_val(evaluation: Evaluation) -> dict[str, float]:
    """The held-out losses as curve fields."""
    return {key: value for key, value in asdict(evaluation).items() if key.startswith("val_")}


def _check_alive(loss: float, norm: float, ceiling: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingFailed(f"the loss became {loss} at step {step}")
    if not math.isfinite(norm):
        raise TrainingFailed(f"the gradient norm became {norm} at step {step}")
    if loss > ceiling:
        raise TrainingFailed(
            f"the loss exploded to {loss:.1f} nats/token at step {step} (limit {ceiling:.1f})"
        )
