"""Distillation at a head: cross-entropy with the text and KL divergence from a teacher, in chunks.

As in `surgery.ops.cross_entropy`, neither model's logits of all tokens are in memory at once.
Shapes: n tokens, d width of the hidden states, v vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from surgery.ops.cross_entropy import IGNORED, product_dtype, summed_losses
from surgery.ops.cross_entropy_triton import fits_rows
from surgery.ops.distillation_triton import distill_fused


def linear_distillation(
    hidden: Float[Tensor, "*batch d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, "*batch"],
    teacher_hidden: Float[Tensor, "*batch e"],
    teacher_weight: Float[Tensor, "v e"],
    kl_share: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Compute losses in nats, summed over the tokens that count.

    Args:
        hidden: hidden states of the student.
        weight: weight of its head.
        targets: target ids; IGNORED ones do not count.
        teacher_hidden: hidden states of the teacher, without gradients.
        teacher_weight: weight of its head.
        kl_share: weight of the divergence, from 0 to 1; that of the cross-entropy is 1 minus it.

    Returns:
        (weighted sum of both losses, cross-entropy, KL(teacher || student) over the whole vocabulary); only
        the first has gradients. The gradient of student logits z is
        softmax(z) - (1 - kl_share) onehot(target) - kl_share softmax(teacher's logits).
    """
    flat = targets.flatten()
    states = teacher_hidden.detach().reshape(len(flat), teacher_hidden.shape[-1])
    dtype = product_dtype(hidden)
    head = teacher_weight.detach().to(dtype)

    def row_losses(logits: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        teacher = states[chunk].to(dtype) @ head.T
        if fits_rows(logits):
            return distill_fused(logits, teacher, flat[chunk], kl_share, IGNORED), logits
        return _distill_plainly(logits, teacher, flat[chunk, None], kl_share)

    total, cross_entropy, divergence = summed_losses(hidden, weight, flat, row_losses, 3).unbind()
    return total, cross_entropy.detach(), divergence.detach()


def _distill_plainly(
    logits: Float[Tensor, "n v"], teacher: Float[Tensor, "n v"], targets: Int[Tensor, "n 1"], kl_share: float
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n v"]]:
    """Return (total, cross-entropy and divergence of each row, 0 if ignored; gradient of the logits)."""
    accumulation_dtype = torch.promote_types(logits.dtype, torch.float32)
    counts = targets != IGNORED
    targets = targets.where(counts, 0)
    log_q = F.log_softmax(logits, dim=-1, dtype=accumulation_dtype)
    log_p = F.log_softmax(teacher, dim=-1, dtype=accumulation_dtype)
    p = log_p.exp()
    cross_entropy = -log_q.gather(1, targets)
    divergence = (p * log_p.sub_(log_q)).sum(-1, keepdim=True)
    total = (1 - kl_share) * cross_entropy + kl_share * divergence
    gradient = log_q.exp_().sub_(p.mul_(kl_share))
    gradient.scatter_add_(1, targets, p.new_full((1, 1), kl_share - 1).expand_as(targets))
    losses = torch.cat((total, cross_entropy, divergence), dim=1).where(counts, 0)
    return losses, gradient.to(logits.dtype)
