"""Cross-entropy of a head's logits in chunks, without the logits of all tokens in memory.

Shapes: n tokens, d width of the hidden states, v vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from surgery.ops.cross_entropy_triton import fits_rows, losses_fused

IGNORED = -100  # target of an ignored token, as in F.cross_entropy

# Logits per chunk: 4 MiB in float32, and 0.5 GiB in bfloat16. On one CPU core 2^20 is the fastest for
# vocabularies of 1,024 to 8,192: larger chunks exceed the caches, smaller ones spend more time accumulating
# the weight's gradient. On an H100 doubling and quadrupling the size gain 2 % each.
CHUNK = {"cpu": 1 << 20, "accelerator": 1 << 28}


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, "*batch"],
    *,
    reduction: str = "mean",
) -> Float[Tensor, ""]:
    """Compute F.cross_entropy(hidden @ weight.T, targets) in nats, in float32 or better.

    The product is computed in autocast's dtype if autocast is on.

    Logits of n * v numbers would be by far the largest tensor of a training step. They are computed for one
    chunk of tokens at a time, and with them the gradients of `hidden` and `weight`, already in the forward
    pass. If all logits fit into one chunk, this costs no more than keeping them.

    Args:
        hidden: hidden states.
        weight: weight of the head.
        targets: target ids; IGNORED ones do not count.
        reduction: `mean` over the tokens that count (nan if there are none), or `sum`.
    """
    assert reduction in ("mean", "sum")
    flat = targets.flatten()
    if not torch.is_grad_enabled():  # `needs_input_grad` does not depend on it
        hidden, weight = hidden.detach(), weight.detach()
    total: Tensor = _ChunkedCrossEntropy.apply(hidden.reshape(len(flat), hidden.shape[-1]), weight, flat)
    return total / (flat != IGNORED).sum() if reduction == "mean" else total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy, whose gradients are computed in the forward pass.

    The gradient of logits z is softmax(z) - onehot(target), so for a scalar loss its products with the weight
    and the hidden states are known as soon as the logits are.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "n d"], weight: Float[Tensor, "v d"], targets: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        accumulation_dtype = torch.promote_types(hidden.dtype, torch.float32)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=accumulation_dtype, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight, dtype=accumulation_dtype) if wants_weight else None
        rows = max(1, CHUNK["cpu" if kind == "cpu" else "accelerator"] // weight.shape[0])
        with torch.autocast(kind, enabled=False):
            head = weight.to(dtype)
            for start in range(0, len(targets), rows):
                chunk = slice(start, start + rows)
                states, target = hidden[chunk].to(dtype), targets[chunk, None]
                counts = target != IGNORED
                losses, d_logits = _losses(states @ head.T, target, accumulation_dtype)
                total += losses.sum()
                if d_hidden is None and d_weight is None:
                    continue
                if d_hidden is not None:
                    d_hidden[chunk] = (d_logits @ head).where(counts, 0)
                if d_weight is not None:
                    states = states.where(counts, 0)
                    if dtype == accumulation_dtype:
                        d_weight.addmm_(d_logits.T, states)
                    else:
                        d_weight += d_logits.T @ states
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Float[Tensor, ""]) -> tuple[Tensor | None, Tensor | None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return (
            d_hidden * d_total.to(d_hidden.dtype) if d_hidden is not None else None,
            (d_weight * d_total).to(ctx.dtype) if d_weight is not None else None,
            None,
        )


def _losses(
    logits: Float[Tensor, "n v"], targets: Int[Tensor, "n 1"], accumulation_dtype: torch.dtype
) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n v"]]:
    """Return (cross-entropy of each row, 0 if ignored; gradient in the dtype of the logits).

    May overwrite `logits`. Gradients of ignored rows are arbitrary finite numbers.
    """
    if fits_rows(logits):
        return losses_fused(logits, targets, IGNORED)[:, None], logits
    return _losses_plainly(logits, targets, accumulation_dtype)


def _losses_plainly(
    logits: Tensor, targets: Tensor, accumulation_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute `_losses` in plain torch with a single pass of exponentials.

    The largest probability of a row is exp(largest logit - logsumexp), which is never small.
    """
    counts = targets != IGNORED
    targets = targets.where(counts, 0)
    p = F.softmax(logits, dim=-1, dtype=accumulation_dtype)
    largest = logits.amax(-1, keepdim=True).to(accumulation_dtype)
    logsumexp = largest - p.amax(-1, keepdim=True).log()
    losses = (logsumexp - logits.gather(1, targets)).where(counts, 0)
    return losses, p.scatter_add_(1, targets, p.new_full((1, 1), -1).expand_as(targets)).to(logits.dtype)
