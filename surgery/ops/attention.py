"""Softmax attention over what a layer has cached and what is new, whole or in a sliding window."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from surgery.context import Context

SMALLEST_BLOCK = 64  # queries handled together in a window: fewer keep neither cores nor tensor cores busy


def narrower(window: int | None, context: Context) -> int | None:
    """The window of a mixer in this pass of the loop, in tokens; None: no limit."""
    limits = [limit for limit in (window, context.window) if limit is not None]
    return min(limits) if limits else None


def with_past(context: Context, window: int | None, *new: Float[Tensor, "b h t d"]) -> tuple[Tensor, ...]:
    """Cached keys and values followed by the new ones; keeps what later tokens may look back on."""
    past = context.state
    whole = new
    if past is not None:
        whole = tuple(context.append(old, item, dim=2) for old, item in zip(past, new, strict=True))
    if context.cache is not None:
        length = whole[0].shape[2]
        first = 0 if window is None else max(0, length - (window - 1))  # the next token is the window's last
        # a copy, or the view would hold on to all that was cut off
        context.keep(tuple(item[:, :, first:].contiguous() if first else item for item in whole))
    return whole


def attend(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b g s d"],
    v: Float[Tensor, "b g s e"],
    context: Context,
    *,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h t e"]:
    """Each query over the keys up to its own, at most `window` of them. The new tokens are the last t of s.

    Where the window cuts nothing off, this is PyTorch's SDPA under `context.mask`. Else it is flash attention
    with a window, for what that takes, or the queries go in blocks, each with the keys its window reaches:
    time and memory grow with t * window.
    """
    grouped = q.shape[1] != k.shape[1]
    keys = k.shape[2]
    if window is not None and keys > window:
        if _flashes(q, k, v, context):
            return _flash(q, k, v, window, scale)
        return _banded(q, k, v, context, window, scale, grouped)
    mask = context.mask
    if mask is not None:
        mask = mask[..., mask.shape[-1] - keys :]
    causal = mask is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


@cache
def _varlen() -> Any:
    """PyTorch's flash attention where it knows windows (2.11 does), or None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _flashes(q: Tensor, k: Tensor, v: Tensor, context: Context) -> bool:
    """Whether flash attention takes these: half precision on a recent GPU, heads of one size and number, no
    padding, and as many queries as keys. The compiler has never been tried with it."""
    if torch.compiler.is_compiling():
        return False
    known = q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and q.dtype == k.dtype == v.dtype
    alike = q.shape == k.shape == v.shape and q.shape[3] % 8 == 0 and q.shape[3] <= 256
    if not (known and alike and context.padding is None and _varlen() is not None):
        return False
    return torch.cuda.get_device_capability(q.device) >= (8, 0)


def _flash(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None) -> Tensor:
    """Sequences side by side, as flash attention has them."""
    batch, _, length, _ = q.shape
    ends = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=q.device)
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    mixed = _varlen()(*flat, ends, ends, length, length, scale=scale, window_size=(window - 1, 0))
    whole: Tensor = mixed.unflatten(0, (batch, length)).transpose(1, 2)
    return whole


def _banded(
    q: Tensor, k: Tensor, v: Tensor, context: Context, window: int, scale: float | None, grouped: bool
) -> Tensor:
    batch, _, length, _ = q.shape
    block = max(window // 2, SMALLEST_BLOCK)
    blocks = -(-length // block)
    ahead = blocks * block - length  # rows that fill up the last block
    behind = window - 1 - (k.shape[2] - length)  # keys missing before the first query; negative: superfluous
    span = block + window - 1

    def by_block(x: Float[Tensor, "b g s d"]) -> Float[Tensor, "bn g span d"]:
        parts = F.pad(x, (0, 0, behind, ahead)).unfold(2, span, block)
        return parts.permute(0, 2, 1, 4, 3).flatten(0, 1)

    queries = F.pad(q, (0, 0, 0, ahead)).unflatten(2, (blocks, block)).transpose(1, 2).flatten(0, 1)
    mask = _band(context, batch, window, block, blocks, behind, ahead, length)
    mixed: Tensor = F.scaled_dot_product_attention(
        queries, by_block(k), by_block(v), attn_mask=mask, scale=scale, enable_gqa=grouped
    )
    whole: Tensor = mixed.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)
    return whole[:, :, :length]


def _band(
    context: Context, batch: int, window: int, block: int, blocks: int, behind: int, ahead: int, length: int
) -> Bool[Tensor, "bn 1 block span"]:
    """True where a query of a block may look: at keys of its window that exist and are no padding, and at
    itself, so that no row is empty."""
    device = context.rotary[0].device
    span = block + window - 1
    rows = torch.arange(block, device=device)[:, None]
    columns = torch.arange(span, device=device)[None]
    band = (columns >= rows) & (columns < rows + window)
    itself = columns == rows + window - 1
    size = window - 1 + length  # keys from the first query's window on, existing or not
    exists = (torch.arange(size, device=device) >= behind)[None]
    if context.padding is not None:
        known = context.padding[:, max(0, context.padding.shape[1] - size) :]
        exists = exists & F.pad(known, (size - known.shape[1], 0))
    reached = F.pad(exists, (0, ahead)).unfold(1, span, block)  # (b or 1, blocks, span)
    mask = (band & reached[:, :, None, :]) | itself
    return mask.expand(batch, blocks, block, span).flatten(0, 1)[:, None]
