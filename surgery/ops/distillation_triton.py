"""Cross-entropy and KL divergence of each row of logits, whose gradient overwrites the logits, in one kernel.

Rows of student and teacher are read once for their sums of exponentials and again, from the cache, for the
gradient; plain torch keeps four float32 copies of the chunk.

Why not Liger's `LigerKLDIVLoss`: it takes log-probabilities, which would be two more tensors of the logits'
size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.ops.cross_entropy_triton import WIDEST
from surgery.ops.kernels import block_size, jit, tl


def distill_fused(logits: Tensor, teacher: Tensor, targets: Tensor, kl_share: float, ignored: int) -> Tensor:
    """Return (total, cross-entropy, divergence) of each row (n, 3) in float32, 0 if its target is `ignored`.

    Overwrites `logits` with the gradient of the summed total.
    """
    assert logits.is_contiguous()
    assert teacher.is_contiguous()
    assert logits.shape == teacher.shape
    losses = torch.empty(len(logits), 3, dtype=torch.float32, device=logits.device)
    block = block_size(logits.shape[1], WIDEST // 2)  # two rows are loaded at a time
    distill_in_place[(len(logits),)](
        logits, teacher, targets.contiguous(), losses, logits.shape[1], float(kl_share), ignored,
        BLOCK=block, num_warps=max(4, min(16, block // 256)), num_stages=2,
    )  # fmt: skip
    return losses


@jit
def distill_in_place(logits, teacher, targets, losses, vocab, kl_share, ignored, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute the losses of one row, and overwrite its logits with the gradient.

    With weights p of the teacher's softmax, KL(p || q) = sum of p (t - s) - logsumexp(t) + logsumexp(s).
    """
    row = tl.program_id(0).to(tl.int64)
    student_row, teacher_row = logits + row * vocab, teacher + row * vocab
    target = tl.load(targets + row)
    counts = target != ignored
    picked = tl.load(student_row + tl.where(counts, target, 0)).to(tl.float32)
    column = tl.arange(0, BLOCK)
    largest_s = tl.full((), float("-inf"), tl.float32)
    largest_t = tl.full((), float("-inf"), tl.float32)
    total_s = tl.zeros((), tl.float32)
    total_t = tl.zeros((), tl.float32)
    gap = tl.zeros((), tl.float32)
    for first in range(0, vocab, BLOCK):
        inside = first + column < vocab
        s = tl.load(student_row + first + column, mask=inside, other=float("-inf")).to(tl.float32)
        t = tl.load(teacher_row + first + column, mask=inside, other=float("-inf")).to(tl.float32)
        above_s = tl.maximum(largest_s, tl.max(s, 0))
        above_t = tl.maximum(largest_t, tl.max(t, 0))
        p = tl.exp(t - above_t)
        shrink = tl.exp(largest_t - above_t)
        total_s = total_s * tl.exp(largest_s - above_s) + tl.sum(tl.exp(s - above_s), 0)
        total_t = total_t * shrink + tl.sum(p, 0)
        gap = gap * shrink + tl.sum(tl.where(inside, p * (t - s), 0.0), 0)
        largest_s, largest_t = above_s, above_t
    whole_s = largest_s + tl.log(total_s)
    whole_t = largest_t + tl.log(total_t)
    cross_entropy = tl.where(counts, whole_s - picked, 0.0)
    divergence = tl.where(counts, gap / total_t - whole_t + whole_s, 0.0)
    tl.store(losses + row * 3, (1 - kl_share) * cross_entropy + kl_share * divergence)
    tl.store(losses + row * 3 + 1, cross_entropy)
    tl.store(losses + row * 3 + 2, divergence)
    tl.debug_barrier()  # all threads have read the target's logit before any logit is overwritten
    for first in range(0, vocab, BLOCK):
        inside = first + column < vocab
        s = tl.load(student_row + first + column, mask=inside, other=float("-inf")).to(tl.float32)
        t = tl.load(teacher_row + first + column, mask=inside, other=float("-inf")).to(tl.float32)
        d = tl.exp(s - whole_s) - kl_share * tl.exp(t - whole_t)
        d -= tl.where(first + column == target, 1 - kl_share, 0.0)
        tl.store(student_row + first + column, tl.where(counts, d, 0.0), mask=inside)
