"""Losses and KL divergences of single sequences."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surgery.ops.distillation import linear_distillation


@torch.no_grad()
def divergences(
    hidden: Float[Tensor, "n t d"],
    wanted: Float[Tensor, "n t d"],
    head: Float[Tensor, "v d"],
    targets: Int[Tensor, "n t"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return (cross-entropy, KL(teacher || model)) of each sequence in nats/token.

    Logits are computed in float32, whatever the layers computed in: rounding them to bfloat16 would add a
    divergence of its own.

    Args:
        hidden: normed output of the model.
        wanted: that of the teacher.
        head: weight of the head, which both share.
        targets: the next tokens.
    """
    head, length = head.float(), hidden.shape[1]
    rows = []
    for own, theirs, next_tokens in zip(hidden.float(), wanted.float(), targets, strict=True):
        _, loss, divergence = linear_distillation(own, head, next_tokens, theirs, head, 1.0)
        rows.append(torch.stack((loss, divergence)).double() / length)
    both = torch.stack(rows)
    return both[:, 0], both[:, 1]
