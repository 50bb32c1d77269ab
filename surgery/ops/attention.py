"""Softmax attention over cached and new tokens, unlimited or in a sliding window."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from surgery.context import Context

SMALLEST_BLOCK = 64  # queries per block of windowed attention; smaller blocks underuse CPUs and tensor cores


class Sinks(NamedTuple):
    """Keys and values of the first tokens, and whether a query sees them.

    A query sees those that its window does not contain, so that none counts twice. A single new token without
    padding sees all that are given.
    """

    k: Float[Tensor, "b g n d"]
    v: Float[Tensor, "b g n e"]
    visible: Bool[Tensor, "b 1 t n"]


def narrower(window: int | None, context: Context) -> int | None:
    """Return the smaller of a mixer's window and the loop pass's, in tokens; None: no limit."""
    limits = [limit for limit in (window, context.window) if limit is not None]
    return min(limits) if limits else None


def with_past(
    context: Context, window: int | None, *new: Float[Tensor, "b _ t _"]
) -> tuple[Float[Tensor, "b _ s _"], ...]:
    """Return cached tensors followed by the new ones, and cache those that later tokens can attend to.

    The cached state may have more tensors behind these.
    """
    past = context.state
    whole = new
    if past is not None:
        whole = tuple(
            context.append(old, item, dim=2) for old, item in zip(past[: len(new)], new, strict=True)
        )
    if context.cache is not None:
        length = whole[0].shape[2]
        first = 0 if window is None else max(0, length - (window - 1))  # the next token is the window's last
        # a copy: a view would keep the whole tensor alive
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
    sinks: Sinks | None = None,
) -> Float[Tensor, "b h t e"]:
    """Attend from each query to the keys up to its own, at most `window` of them, and to the sinks.

    The new tokens are the last t of the s tokens. If the window excludes no key, this is PyTorch's SDPA under
    `context.mask`; otherwise flash attention with a window for supported inputs, and else blocks of queries,
    each with the keys that its window reaches, in time and memory proportional to t * window.

    Args:
        q, k, v: queries, keys and values per head; h is a multiple of the number of key/value heads g.
        context: mask and padding.
        window: keys per query, including the query's own token; None: all.
        scale: factor on the scores; None: d^-0.5.
        sinks: keys before the window that are seen too, not with flash attention.
    """
    grouped = q.shape[1] != k.shape[1]
    keys = k.shape[2]
    if window is not None and keys > window:
        if sinks is None and _fits_flash(q, k, v, context):
            return _flash(q, k, v, window, scale)
        return _banded(q, k, v, context, window, scale, grouped, sinks)
    mask = context.mask
    if mask is not None:
        mask = mask[..., mask.shape[-1] - keys :]
    # without a mask, several new tokens are the first ones, and have no token before their window
    if sinks is not None and (mask is not None or q.shape[2] == 1):
        if mask is not None:
            mask = torch.cat((sinks.visible.expand(*mask.shape[:3], -1), mask), dim=-1)
        k, v = torch.cat((sinks.k, k), dim=2), torch.cat((sinks.v, v), dim=2)
    causal = mask is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


@cache
def _varlen() -> Any:
    """Return PyTorch's variable-length flash attention if it supports windows (2.11 does), or None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _fits_flash(q: Tensor, k: Tensor, v: Tensor, context: Context) -> bool:
    """Return whether flash attention supports these inputs.

    It needs half precision on a recent GPU, equal numbers and sizes of heads, as many queries as keys, and no
    padding. Not tested under torch.compile, so not used there.
    """
    if torch.compiler.is_compiling():
        return False
    fits_dtype = q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and q.dtype == k.dtype == v.dtype
    fits_shape = q.shape == k.shape == v.shape and q.shape[3] % 8 == 0 and q.shape[3] <= 256
    if not (fits_dtype and fits_shape and context.padding is None and _varlen() is not None):
        return False
    return torch.cuda.get_device_capability(q.device) >= (8, 0)


def _flash(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t d"],
    window: int,
    scale: float | None,
) -> Float[Tensor, "b h t d"]:
    """Run flash attention on the concatenated sequences of the batch."""
    batch, _, length, _ = q.shape
    ends = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=q.device)
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    output = _varlen()(*flat, ends, ends, length, length, scale=scale, window_size=(window - 1, 0))
    per_head: Tensor = output.unflatten(0, (batch, length)).transpose(1, 2)
    return per_head


def _banded(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b g s d"],
    v: Float[Tensor, "b g s e"],
    context: Context,
    window: int,
    scale: float | None,
    grouped: bool,
    sinks: Sinks | None,
) -> Float[Tensor, "b h t e"]:
    """Run SDPA on blocks of queries, each with the sinks and the keys that its window reaches."""
    batch, _, length, _ = q.shape
    block = max(window // 2, SMALLEST_BLOCK)
    blocks = -(-length // block)
    pad_end = blocks * block - length  # rows that fill up the last block
    pad_start = window - 1 - (k.shape[2] - length)  # keys missing before the first query; negative: surplus
    k, v = (
        F.pad(x, (0, 0, pad_start, pad_end))
        .unfold(2, block + window - 1, block)  # (b, g, blocks, d, span)
        .permute(0, 2, 1, 4, 3)
        .flatten(0, 1)
        for x in (k, v)
    )
    queries = F.pad(q, (0, 0, 0, pad_end)).unflatten(2, (blocks, block)).transpose(1, 2).flatten(0, 1)
    mask = _band(context, batch, window, block, blocks, pad_start, pad_end, length)
    if sinks is not None:
        k, v = (
            torch.cat((first.repeat_interleave(blocks, 0), rest), dim=2)
            for first, rest in ((sinks.k, k), (sinks.v, v))
        )
        seen = F.pad(sinks.visible, (0, 0, 0, pad_end)).expand(batch, -1, -1, -1)
        mask = torch.cat((seen.reshape(batch * blocks, 1, block, -1), mask), dim=-1)
    output: Tensor = F.scaled_dot_product_attention(
        queries, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped
    )
    per_head: Tensor = output.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)
    return per_head[:, :, :length]


def _band(
    context: Context,
    batch: int,
    window: int,
    block: int,
    blocks: int,
    pad_start: int,
    pad_end: int,
    length: int,
) -> Bool[Tensor, "bn 1 block span"]:
    """Return the mask of each block: True at real keys within a query's window, and at the query itself.

    Padding thereby attends to itself, so that no row is empty.
    """
    device = context.rotary[0].device
    span = block + window - 1
    rows = torch.arange(block, device=device)[:, None]
    columns = torch.arange(span, device=device)[None]
    band = (columns >= rows) & (columns < rows + window)
    itself = columns == rows + window - 1
    size = window - 1 + length  # keys from the first query's window on, existing or not
    exists = (torch.arange(size, device=device) >= pad_start)[None]
    if context.padding is not None:
        real = context.padding[:, max(0, context.padding.shape[1] - size) :]
        exists = exists & F.pad(real, (size - real.shape[1], 0))
    reached = F.pad(exists, (0, pad_end)).unfold(1, span, block)  # (b or 1, blocks, span)
    mask = (band & reached[:, :, None, :]) | itself
    return mask.expand(batch, blocks, block, span).flatten(0, 1)[:, None]
