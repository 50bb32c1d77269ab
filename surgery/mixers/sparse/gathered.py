"""Sparse attention over gathered keys and values, at a cost proportional to length * top_k.

Faster than `masked` if the sequence is much longer than top_k, and in decoding.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from surgery.context import Context
from surgery.mixers.sparse.attention import Attended, Heads
from surgery.mixers.sparse.chunks import recomputed, row_chunks
from surgery.mixers.sparse.indexer import Index, index_kl, index_scores
from surgery.mixers.sparse.select import real_rows, top_tokens, visible


def gathered_attention(
    heads: Heads, index: Index, context: Context, top_k: int, *, with_kl: bool
) -> Attended:
    """Attend from each query to its top_k tokens, whose keys and values are gathered."""
    q, k, v = heads
    batch, groups, total, size = k.shape
    top_k = min(top_k, total)
    widest = max(index.q.shape[2] * total, groups * size * top_k)
    chunks = list(row_chunks(q.shape[2], batch * widest, q.device))
    sizes = [rows.stop - rows.start for rows in chunks]
    # split, not sliced: the gradient of a slice is as large as the sliced tensor
    pieces = zip(chunks, q.split(sizes, 2), index.split(sizes), strict=True)
    kl = index.weights.new_zeros(())
    parts = []
    for rows, queries, own in pieces:
        tokens, chosen = _selected(own, context, top_k, rows)
        real = real_rows(context, rows)
        output, part = recomputed(_chunk, queries, k, v, own, tokens, chosen, real, with_kl)
        parts.append(output)
        kl = kl + part
    return Attended(torch.cat(parts, dim=2), kl)


@torch.no_grad()
def _selected(
    index: Index, context: Context, top_k: int, rows: slice
) -> tuple[Int[Tensor, "b t k"], Bool[Tensor, "b t k"]]:
    """Return `top_tokens` of the new tokens `rows`, whose index is given."""
    allowed = visible(context, rows)
    end = allowed.shape[-1]
    return top_tokens(index.scores(end), allowed, min(top_k, end))


def _chunk(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b g s d"],
    v: Float[Tensor, "b g s d"],
    index: Index,
    tokens: Int[Tensor, "b t k"],
    chosen: Bool[Tensor, "b t k"],
    real: Bool[Tensor, "b t"] | None,
    with_kl: bool,
) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, ""]]:
    """Return attention outputs of some queries over the `chosen` ones of their `tokens`, and their KL."""
    keys, values = _gather(k, tokens), _gather(v, tokens)
    queries = q.unflatten(1, (k.shape[1], -1)).transpose(2, 3)
    mixed, probabilities = attend_each(queries, keys, values, chosen[:, None])
    output = mixed.transpose(2, 3).flatten(1, 2)
    kl = index.weights.new_zeros(())
    if with_kl:
        target = probabilities.detach().mean((1, 3))
        queries, weights = (x.flatten(0, 1)[:, None] for x in (index.q, index.weights))
        own_keys = _gather(index.keys[:, None], tokens).flatten(0, 2)
        kl = index_kl(target, index_scores(queries, weights, own_keys).view(target.shape), chosen, real)
    return output, kl


def attend_each(
    q: Float[Tensor, "b g t r d"],
    k: Float[Tensor, "b g t k d"],
    v: Float[Tensor, "b g t k d"],
    chosen: Bool[Tensor, "b 1 t k"],
) -> tuple[Float[Tensor, "b g t r d"], Float[Tensor, "b g t r k"]]:
    """Return (output, probabilities) of queries that have keys and values of their own, by `chosen` of them.

    `r`: query heads that share keys and values.
    """
    logits = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    probabilities = logits.to(dtype).masked_fill(~chosen[..., None, :], -torch.inf).softmax(-1)
    return probabilities.to(v.dtype) @ v, probabilities


def _gather(x: Float[Tensor, "b g s n"], tokens: Int[Tensor, "b t k"]) -> Float[Tensor, "b g t k n"]:
    """Gather rows of x for each query, by an embedding, whose gradient is the fastest and deterministic."""
    batch, groups, length, _ = x.shape
    starts = torch.arange(batch * groups, device=x.device).view(batch, groups, 1, 1) * length
    return F.embedding(tokens[:, None] + starts, x.flatten(0, 2))
