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
# Bytes of a teacher's logits that are kept: on a CPU computing them is nearly half of a comparison.
KEPT = {"cpu": 2**30}


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


class TeacherLogits:
    """The teacher's logits in float32, chunk by chunk; those of the first tokens are kept for the next model.

    Attributes:
        wanted: its normed outputs, of all tokens.
        head: weight of its head in float32.
    """

    def __init__(
        self, wanted: Float[Tensor, "n t d"], head: Float[Tensor, "v d"], keep: int | None = None
    ) -> None:
        """Describe the logits; `keep`: bytes of them that are kept, by default KEPT."""
        self.wanted, self.head = wanted.flatten(0, 1), head.float()
        self._left = KEPT.get(head.device.type, 0) if keep is None else keep
        self._kept: dict[int, Tensor] = {}

    def of(self, rows: slice) -> Float[Tensor, "m v"]:
        """Return the logits of these tokens, a slice of `chunks`."""
        if rows.start in self._kept:
            return self._kept[rows.start]
        logits = self.wanted[rows].float() @ self.head.T
        if logits.nbytes <= self._left:
            self._left -= logits.nbytes
            self._kept[rows.start] = logits
        return logits


@torch.no_grad()
def compare(
    hidden: Float[Tensor, "n t d"], teacher: TeacherLogits, targets: Int[Tensor, "n t"]
) -> Comparison:
    """Compare a model with its teacher, whose head it shares.

    With the teacher's probabilities p and the change c of its logits, the divergence is
    log E_p exp(c - E_p c). In float32 it errs by a few 1e-7 nats per token.

    Args:
        hidden: normed output of the model.
        teacher: the teacher on the same tokens.
        targets: the next tokens.
    """
    ours, flat = hidden.flatten(0, 1), targets.flatten()
    results = [
        _compare(ours[rows].float() @ teacher.head.T, teacher.of(rows), flat[rows])
        for rows in chunks(len(flat), len(teacher.head), teacher.head.device)
    ]
    return Comparison(*(torch.cat(parts).view(targets.shape) for parts in zip(*results, strict=True)))


def chunks(tokens: int, vocabulary: int, device: torch.device) -> list[slice]:
    """Return slices of tokens whose logits may be in memory at once."""
    size = max(1, CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cpu"]) // vocabulary)
    return [slice(start, start + size) for start in range(0, tokens, size)]


def _compare(
    ours: Float[Tensor, "m v"], theirs: Float[Tensor, "m v"], targets: Int[Tensor, " m"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Return (loss, kl, change) of each token, given the logits of both; overwrites the model's."""
    changes = ours.sub_(theirs)
    log_p = theirs.log_softmax(-1)
    change = log_p.exp().mul_(changes).sum(-1, keepdim=True)
    log_q = log_p.add_(changes).sub_(change)
    kl = log_q.logsumexp(-1, keepdim=True)
    loss = kl - log_q.gather(1, targets[:, None])
    return loss[:, 0], kl[:, 0], change[:, 0]
