"""Which tokens a query may look at, and the top-k of them by score."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surgery.context import Context


def visible(context: Context, rows: slice) -> Bool[Tensor, "1|b t s"]:
    """True where a new token of `rows` may look, of the tokens up to the last of these: not ahead, not at
    padding; padding itself sees itself, so that no row is empty."""
    tokens = torch.arange(context.seen + rows.stop, device=context.rotary[0].device)
    queries = tokens[context.seen + rows.start :, None]
    mask = (tokens <= queries)[None]
    if context.padding is not None:
        mask = (mask & context.padding[:, None, : len(tokens)]) | (tokens == queries)
    return mask


def real_rows(context: Context, rows: slice) -> Bool[Tensor, "b t"] | None:
    """Which new tokens of `rows` are no padding; None: all."""
    real = context.new_real
    return None if real is None else real[:, rows]


def top_tokens(
    scores: Float[Tensor, "b t s"], allowed: Bool[Tensor, "1|b t s"], count: int
) -> tuple[Int[Tensor, "b t k"], Bool[Tensor, "b t k"]]:
    """Positions of the `count` allowed tokens of the highest score, in any order, and which of them are
    real: a row may allow fewer.

    Scores are compared in float32; of equal ones (the ReLU makes zeros) the later token wins. torch.topk
    leaves that open, and decoding must select what training did. So it is given whole numbers: a float's
    bits, turned so that they sort as the float does, above the position.
    """
    scores = scores.detach().float().masked_fill(~allowed, -torch.inf) + 0.0  # -0 and 0 are equal
    bits = scores.view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ranked = (bits.long() << 32) | torch.arange(scores.shape[-1], device=scores.device)
    tokens = ranked.topk(count, dim=-1, sorted=False).values & 0xFFFFFFFF
    return tokens, allowed.expand_as(scores).gather(-1, tokens)


def as_mask(tokens: Int[Tensor, "b t k"], real: Bool[Tensor, "b t k"], length: int) -> Bool[Tensor, "b t s"]:
    """True at the real ones of these positions."""
    return torch.zeros(*tokens.shape[:2], length, dtype=torch.bool, device=tokens.device).scatter_(
        -1, tokens, real
    )
