"""Losses and KL divergences of single tokens, without gradients.

Why not `surgery.ops.distillation`: it sums over tokens and computes gradients, and its logits have the dtype
of the layers. Rounding logits to bfloat16 would add a divergence of its own; here they are float32 always.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Logits of each model in memory at once. On one CPU core, 512 tokens of a vocabulary of 49,152 take 0.93 s at
# 2^22 and more, and 1.45 s at 2^20, of which the products are 0.78 s.
CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**28}


class Comparison(NamedTuple):
    """Comparison of a model with its teacher, token by token.

    Attributes:
        loss: cross-entropy with the text, in nats.
        kl: KL(teacher || model) over the whole vocabulary, in nats.
        change: mean change of the logits, weighted by the teacher's probabilities.
    """

    loss: Float[Tensor, "n t"]
    kl: Float[Tensor, "n t"]
    change: Float[Tensor, "n t"]


@torch.no_grad()
def compare(
    hidden: Float[Tensor, "n t d"],
    wanted: Float[Tensor, "n t d"],
    head: Float[Tensor, "v d"],
    targets: Int[Tensor, "n t"],
) -> Comparison:
    """Compare a model with its teacher.

    With the teacher's probabilities p and the change c of its logits, the divergence is
    log E_p exp(c - E_p c). In float32 it errs by a few 1e-7 nats per token.

    Args:
        hidden: normed output of the model.
        wanted: that of the teacher.
        head: weight of the head, which both share.
        targets: the next tokens.
    """
    head = head.float()
    ours, theirs, flat = hidden.flatten(0, 1), wanted.flatten(0, 1), targets.flatten()
    results = [
        _compare(ours[rows].float(), theirs[rows].float(), head, flat[rows])
        for rows in chunks(len(flat), len(head), head.device)
    ]
    return Comparison(*(torch.cat(parts).view(targets.shape) for parts in zip(*results, strict=True)))


def chunks(tokens: int, vocabulary: int, device: torch.device) -> list[slice]:
    """Return slices of tokens whose logits may be in memory at once."""
    size = max(1, CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cpu"]) // vocabulary)
    return [slice(start, start + size) for start in range(0, tokens, size)]


def _compare(
    hidden: Float[Tensor, "m d"],
    wanted: Float[Tensor, "m d"],
    head: Float[Tensor, "v d"],
    targets: Int[Tensor, " m"],
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Return (loss, kl, change) of each token."""
    logits = wanted @ head.T
    changes = (hidden @ head.T).sub_(logits)
    log_p = logits.log_softmax(-1)
    change = log_p.exp().mul_(changes).sum(-1, keepdim=True)
    log_q = log_p.add_(changes).sub_(change)
    kl = log_q.logsumexp(-1, keepdim=True)
    loss = kl - log_q.gather(1, targets[:, None])
    return loss[:, 0], kl[:, 0], change[:, 0]
