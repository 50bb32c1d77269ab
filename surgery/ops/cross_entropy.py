"""Cross-entropy of a head's logits in chunks, without the logits of all tokens in memory.

Shapes: n tokens, d width of the hidden states, v vocabulary.

Why not `torch.nn.functional.linear_cross_entropy`: it came with torch 2.13, and older ones are supported; it
takes no other losses of the rows, as distillation does; on one CPU core its chunks take 9 % more time and
half more memory (2,048 tokens, d 576, v 49,152); and its losses differ in the last bits, so that a study
would not resume as it began. Why not Liger's: it reads the number of targets back to the host, so that a
step can't be captured as a CUDA graph, and needs Triton on CPUs too.
"""

from __future__ import annotations

from collections.abc import Callable
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
    total = summed_losses(hidden, weight, flat, lambda logits, chunk: _losses(logits, flat[chunk, None]))[0]
    return total / (flat != IGNORED).sum() if reduction == "mean" else total


# Computes from the logits (n, v) of a chunk of tokens their losses (n, k), of which the first is minimised,
# and the gradient (n, v) of that one in the logits' dtype. May overwrite the logits.
RowLosses = Callable[[Float[Tensor, "n v"], slice], tuple[Float[Tensor, "n k"], Float[Tensor, "n v"]]]


def summed_losses(
    hidden: Float[Tensor, "*batch d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " n"],
    row_losses: RowLosses,
    count: int = 1,
) -> Float[Tensor, " count"]:
    """Sum `count` losses of each token over all tokens, in chunks; only the first sum has gradients.

    Args:
        hidden: hidden states of n tokens.
        weight: weight of the head.
        targets: target ids; tokens with IGNORED ones get no gradient.
        row_losses: losses of a chunk.
        count: number of losses per token.
    """
    if not torch.is_grad_enabled():  # `needs_input_grad` does not depend on it
        hidden, weight = hidden.detach(), weight.detach()
    flat = hidden.reshape(len(targets), hidden.shape[-1])
    sums: Tensor = _ChunkedLosses.apply(flat, weight, targets, row_losses, count)
    return sums


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of logits: that of autocast if it is on, else that of the hidden states."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


class _ChunkedLosses(torch.autograd.Function):
    """Summed losses, whose gradients are computed in the forward pass.

    The gradient of logits is known as soon as the logits are, so for a scalar loss its products with the
    weight and the hidden states are too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "n d"],
        weight: Float[Tensor, "v d"],
        targets: Int[Tensor, " n"],
        row_losses: RowLosses,
        count: int,
    ) -> Float[Tensor, " count"]:
        kind, dtype = hidden.device.type, product_dtype(hidden)
        accumulation_dtype = torch.promote_types(hidden.dtype, torch.float32)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        sums = torch.zeros(count, dtype=accumulation_dtype, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight, dtype=accumulation_dtype) if wants_weight else None
        rows = max(1, CHUNK["cpu" if kind == "cpu" else "accelerator"] // weight.shape[0])
        with torch.autocast(kind, enabled=False):
            head = weight.to(dtype)
            for start in range(0, len(targets), rows):
                chunk = slice(start, start + rows)
                states, counts = hidden[chunk].to(dtype), targets[chunk, None] != IGNORED
                losses, d_logits = row_losses(states @ head.T, chunk)
                sums += losses.sum(0)
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
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_sums: Float[Tensor, " count"]) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        d_total = d_sums[0]
        return (
            d_hidden * d_total.to(d_hidden.dtype) if d_hidden is not None else None,
            (d_weight * d_total).to(ctx.dtype) if d_weight is not None else None,
            None,
            None,
            None,
        )


def _losses(
    logits: Float[Tensor, "n v"], targets: Int[Tensor, "n 1"]
) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n v"]]:
    """Return (cross-entropy of each row, 0 if ignored; gradient in the dtype of the logits).

    May overwrite `logits`. Gradients of ignored rows are arbitrary finite numbers.
    """
    if fits_rows(logits):
        return losses_fused(logits, targets, IGNORED)[:, None], logits
    return _losses_plainly(logits, targets)


def _losses_plainly(
    logits: Float[Tensor, "n v"], targets: Int[Tensor, "n 1"]
) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n v"]]:
    """Compute `_losses` in plain torch with a single pass of exponentials.

    The largest probability of a row is exp(largest logit - logsumexp), which is never small.
    """
    accumulation_dtype = torch.promote_types(logits.dtype, torch.float32)
    counts = targets != IGNORED
    targets = targets.where(counts, 0)
    p = F.softmax(logits, dim=-1, dtype=accumulation_dtype)
    largest = logits.amax(-1, keepdim=True).to(accumulation_dtype)
    logsumexp = largest - p.amax(-1, keepdim=True).log()
    losses = (logsumexp - logits.gather(1, targets)).where(counts, 0)
    return losses, p.scatter_add_(1, targets, p.new_full((1, 1), -1).expand_as(targets)).to(logits.dtype)
