"""Loss on held-out text in nats/token and, comparable between tokenizers, bits/byte."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from studies.data import TokenData
from studies.files.defaults import DEFAULT_CPU_PRECISION
from studies.training.devices import autocast, to_device
from studies.training.profiling import mark
from surgery.config.problems import Problem, UserError
from surgery.model import HybridLM
from surgery.ops.cross_entropy import linear_cross_entropy


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy of `tokens` held-out tokens that spell `bytes` bytes of text."""

    val_loss: float
    val_bpb: float
    tokens: int
    bytes: int


def held_out_sequences(data: TokenData, seq_len: int, max_tokens: int) -> int:
    """Return the number of held-out sequences that are evaluated: of `max_tokens`, those that there are."""
    return min(data.num_sequences("val", seq_len), max(1, max_tokens // seq_len))


@torch.no_grad()
def evaluate(
    model: HybridLM,
    data: TokenData,
    *,
    seq_len: int,
    max_tokens: int,
    batch_tokens: int,
    device: torch.device,
    cpu_precision: str = DEFAULT_CPU_PRECISION,
    on_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Evaluate the first `max_tokens` held-out tokens in sequences of `seq_len`, independent of each other.

    Args:
        on_batch: called before every batch; an exception that it raises ends the evaluation.

    Raises:
        UserError: the held-out split has no full sequence.
    """
    sequences = held_out_sequences(data, seq_len, max_tokens)
    if sequences == 0:
        raise UserError(
            "the corpus is too small",
            [Problem("val tokens", len(data.tokens("val")), f"must be more than seq_len ({seq_len})")],
        )
    mark("storage")
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    size = max(1, batch_tokens // seq_len)
    try:
        for start in range(0, sequences, size):
            if on_batch is not None:
                on_batch()
            indices = list(range(start, min(start + size, sequences)))
            rows = to_device(data.batch(indices, seq_len, "val"), device)
            with autocast(device, cpu_precision):
                hidden = model(rows[:, :-1])
                total += linear_cross_entropy(hidden, model.head.weight, rows[:, 1:], reduction="sum")
    finally:
        model.train(was_training)
    tokens = sequences * seq_len
    size_in_bytes = data.val_bytes(1, tokens + 1)
    nats = total.item()  # read once: each reading waits for the device
    mark("evaluation")
    return Evaluation(nats / tokens, nats / math.log(2) / max(1, size_in_bytes), tokens, size_in_bytes)
