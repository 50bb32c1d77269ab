"""Cross-entropy of a head's logits, without ever holding the logits of all tokens.

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

IGNORED = -100  # target of a token that does not count, as in F.cross_entropy

# Numbers in a piece of logits: 4 MiB in float32, and 0.5 GiB in bfloat16. On one core of a CPU 2^20 is the
# fastest for vocabularies of 1,024 to 8,192: larger pieces leave the caches, smaller ones pay for adding up
# the weight's gradient. On an H100 twice and four times as many gain 2 % each.
PIECE = {"cpu": 1 << 20, "accelerator": 1 << 28}


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, "*batch"],
    *,
    reduction: str = "mean",
) -> Float[Tensor, ""]:
    """F.cross_entropy(hidden @ weight.T, targets) in nats, in float32 or better; a target of IGNORED does not
    count. The product is taken in autocast's dtype where that is on.

    Logits of n * v numbers would be the largest tensors of a training step by far. They are made and used up
    a piece of tokens at a time, forwards and backwards, whose results are the gradients of `hidden` and
    `weight`. Logits that fit into one piece cost no more this way than kept.

    Args:
        reduction: `mean` over the tokens that count (nan if none does), or `sum`.
    """
    assert reduction in ("mean", "sum")
    flat = targets.flatten()
    if not torch.is_grad_enabled():  # a function's `needs_input_grad` does not look at this
        hidden, weight = hidden.detach(), weight.detach()
    total: Tensor = _PieceByPiece.apply(hidden.reshape(len(flat), hidden.shape[-1]), weight, flat)
    return total / (flat != IGNORED).sum() if reduction == "mean" else total


class _PieceByPiece(torch.autograd.Function):
    """Summed cross-entropy. The gradient of logits z is softmax(z) - onehot(target); it is known as soon as
    they are, and so are its products with the weight and the hidden states, for a scalar loss."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "n d"], weight: Float[Tensor, "v d"], targets: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        exact = torch.promote_types(hidden.dtype, torch.float32)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=exact, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight, dtype=exact) if wants_weight else None
        rows = max(1, PIECE["cpu" if kind == "cpu" else "accelerator"] // weight.shape[0])
        with torch.autocast(kind, enabled=False):
            head = weight.to(dtype)
            for start in range(0, len(targets), rows):
                piece = slice(start, start + rows)
                states, wanted = hidden[piece].to(dtype), targets[piece, None]
                counts = wanted != IGNORED
                losses, d_logits = _losses(states @ head.T, wanted, exact)
                total += losses.sum()
                if d_hidden is None and d_weight is None:
                    continue
                if d_hidden is not None:
                    d_hidden[piece] = (d_logits @ head).where(counts, 0)
                if d_weight is not None:
                    states = states.where(counts, 0)
                    if dtype == exact:
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
    logits: Float[Tensor, "n v"], targets: Int[Tensor, "n 1"], exact: torch.dtype
) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n v"]]:
    """(cross-entropy of each row, 0 where it does not count, gradient in the dtype of the logits). The logits
    are used up. Gradients of rows that don't count may be anything finite."""
    if fits_rows(logits):
        return losses_fused(logits, targets, IGNORED)[:, None], logits
    return _losses_plainly(logits, targets, exact)


def _losses_plainly(logits: Tensor, targets: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """By a single pass of exponentials: the largest probability of a row is exp(largest logit - logsumexp),
    and never small."""
    counts = targets != IGNORED
    targets = targets.where(counts, 0)
    p = F.softmax(logits, dim=-1, dtype=exact)
    largest = logits.amax(-1, keepdim=True).to(exact)
    logsumexp = largest - p.amax(-1, keepdim=True).log()
    losses = (logsumexp - logits.gather(1, targets)).where(counts, 0)
    return losses, p.scatter_add_(1, targets, p.new_full((1, 1), -1).expand_as(targets)).to(logits.dtype)
