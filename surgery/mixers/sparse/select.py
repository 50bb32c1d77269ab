"""Causal visibility of tokens, and selection of the top-k by score."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surgery.context import Context


def visible(context: Context, rows: slice) -> Bool[Tensor, "#b t s"]:
    """Return the mask of the new tokens `rows` over all tokens up to the last of them.

    True at tokens that are neither later nor padding; padding attends to itself, so that no row is empty.
    """
    tokens = torch.arange(context.seen + rows.stop, device=context.rotary[0].device)
    queries = tokens[context.seen + rows.start :, None]
    mask = (tokens <= queries)[None]
    if context.padding is not None:
        mask = (mask & context.padding[:, None, : len(tokens)]) | (tokens == queries)
    return mask


def real_rows(context: Context, rows: slice) -> Bool[Tensor, "b t"] | None:
    """Return the mask of the new tokens `rows` that are not padding; None: all are real."""
    real = context.new_real
    return None if real is None else real[:, rows]


def top_tokens(
    scores: Float[Tensor, "b t s"], allowed: Bool[Tensor, "#b t s"], count: int
) -> tuple[Int[Tensor, "b t k"], Bool[Tensor, "b t k"]]:
    """Return the `count` allowed tokens with the highest scores.

    Scores are compared in float32; among equal ones (the ReLU produces zeros) the later token is preferred.
    torch.topk leaves ties unspecified, but decoding must select the same tokens as training. It is therefore
    applied to integers: the float's bits, transformed to sort as the float does, above the position.

    Returns:
        Positions of the tokens in any order, and a mask of the real ones: a row may allow fewer.
    """
    scores = scores.detach().float().masked_fill(~allowed, -torch.inf) + 0.0  # -0 and 0 are equal
    bits = scores.view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ranked = (bits.long() << 32) | torch.arange(scores.shape[-1], device=scores.device)
    tokens = ranked.topk(count, dim=-1, sorted=False).values & 0xFFFFFFFF
    return tokens, allowed.expand_as(scores).gather(-1, tokens)


def as_mask(tokens: Int[Tensor, "b t k"], real: Bool[Tensor, "b t k"], length: int) -> Bool[Tensor, "b t s"]:
    """Return a mask that is True at those positions that are real."""
    return torch.zeros(*tokens.shape[:2], length, dtype=torch.bool, device=tokens.device).scatter_(
        -1, tokens, real
    )
