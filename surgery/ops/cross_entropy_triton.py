"""Cross-entropy of each row of logits, whose gradient overwrites the logits, as one Triton kernel.

A row is read once for its sum of exponentials and again, from the cache, for the gradient; plain torch needs
about ten passes over the largest tensor of a training step.

Why not Liger's `LigerCrossEntropyFunction`: it reads the number of targets back to the host, so that a step
can't be captured as a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.ops.kernels import AVAILABLE, block_size, jit, tl

WIDEST = 8192  # logits of a row that are loaded at once


def fits_rows(logits: Tensor) -> bool:
    """Return whether the kernel supports these logits: on CUDA, in bfloat16 or float32."""
    return AVAILABLE and logits.is_cuda and logits.dtype in (torch.bfloat16, torch.float32)


def losses_fused(logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """Return the cross-entropy of each row (n,) in nats, in float32, 0 if the target is `ignored`.

    Overwrites `logits` with the gradient of the summed loss.
    """
    assert logits.is_contiguous()
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    block = block_size(logits.shape[1], WIDEST)
    rows_in_place[(len(logits),)](
        logits, targets.contiguous(), losses, logits.shape[1], ignored,
        BLOCK=block, num_warps=max(4, min(16, block // 512)), num_stages=2,
    )  # fmt: skip
    return losses


@jit
def rows_in_place(logits, targets, losses, vocab, ignored, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute the loss of one row, and overwrite its logits with their gradient."""
    row = tl.program_id(0).to(tl.int64)
    at = logits + row * vocab
    target = tl.load(targets + row)
    counts = target != ignored
    picked = tl.load(at + tl.where(counts, target, 0)).to(tl.float32)
    column = tl.arange(0, BLOCK)
    largest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for first in range(0, vocab, BLOCK):
        x = tl.load(at + first + column, mask=first + column < vocab, other=float("-inf")).to(tl.float32)
        above = tl.maximum(largest, tl.max(x, 0))
        total = total * tl.exp(largest - above) + tl.sum(tl.exp(x - above), 0)
        largest = above
    whole = largest + tl.log(total)
    tl.store(losses + row, tl.where(counts, whole - picked, 0.0))
    tl.debug_barrier()  # all threads have read the target's logit before any logit is overwritten
    for first in range(0, vocab, BLOCK):
        inside = first + column < vocab
        x = tl.load(at + first + column, mask=inside, other=float("-inf")).to(tl.float32)
        d = tl.exp(x - whole) - tl.where(first + column == target, 1.0, 0.0)
        tl.store(at + first + column, tl.where(counts, d, 0.0), mask=inside)
