"""Attention sinks: the first tokens of a row, which windowed attention sees from everywhere.

StreamingLLM, arXiv 2309.17453. Keys are rotated by their own positions here, not by those in the cache, so
that a cache changes nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surgery.context import Context
from surgery.ops.attention import Sinks, with_past


def with_sinks(
    context: Context, window: int | None, count: int, k: Float[Tensor, "b g t d"], v: Float[Tensor, "b g t e"]
) -> tuple[Tensor, Tensor, Sinks | None]:
    """Return `with_past` of keys and values, and up to `count` sinks; None if the window contains them all.

    The cached state is (k, v) of the last window - 1 tokens and (k, v) of the first tokens before these.
    """
    past = context.state
    old = past[2:] if past is not None else ()
    k, v = with_past(context, window, k, v)
    total = context.seen + context.rotary[0].shape[1]
    size = min(count, total - (window - 1)) if window is not None else 0
    if window is None or size <= 0:
        return k, v, None
    old_k, old_v = old or (None, None)
    first_k, first_v = _first(context, k, old_k, size), _first(context, v, old_v, size)
    if context.state is not None:
        context.keep((*context.state, first_k.contiguous(), first_v.contiguous()))
    if context.padding is None and total == context.seen + 1:
        size = min(size, total - window)
        first_k, first_v = first_k[:, :, :size], first_v[:, :, :size]
    return k, v, Sinks(first_k, first_v, _visible(context, window, size)) if size > 0 else None


def _first(context: Context, whole: Tensor, old: Tensor | None, size: int) -> Tensor:
    """Return the keys or values of the first `size` tokens of every row.

    Args:
        context: the forward pass.
        whole: those of the last tokens, cached and new.
        old: those of the first tokens that the cache has; None: it has none.
        size: number of tokens.
    """
    known = old.shape[2] if old is not None else 0
    if context.padding is None:
        new = whole[:, :, : size - known]
        return new if old is None else torch.cat((old, new), dim=2)
    gone = context.padding.sum(1) - whole.shape[2]  # tokens of each row that `whole` has no longer
    columns = torch.arange(size, device=whole.device) - gone[:, None]
    taken = whole.take_along_dim(columns.clamp(min=0)[:, None, :, None], dim=2)
    if old is None:
        return taken
    before = torch.nn.functional.pad(old, (0, 0, 0, size - known))
    lost = columns < (
        0 if context.gap is None else context.gap
    )  # closing a gap leaves no token in its columns
    return torch.where(lost[:, None, :, None], before, taken)


def _visible(context: Context, window: int, size: int) -> Bool[Tensor, "b 1 t n"]:
    """Return whether each of the first `size` tokens is before the window of each new token."""
    device, length = context.rotary[0].device, context.rotary[0].shape[1]
    positions = torch.arange(context.seen, context.seen + length, device=device)[None]
    if context.padding is not None:  # counted from the first real token
        positions = positions - (~context.padding).sum(1, keepdim=True)
    first = torch.arange(size, device=device)
    return (first <= positions[..., None] - window)[:, None]
