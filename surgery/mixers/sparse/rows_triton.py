"""The indexer as Triton kernels for CUDA: scores, their top-k, and the KL with its gradients.

No kernel stores a tensor of heads x tokens x tokens. Scores are computed tile by tile; the k-th largest of a
row is determined bit by bit, by counting. Then each head's normaliser is computed over the selected keys, and
from these a tile's KL and the gradient of its scores, which overwrites the scores.

Why no library: the indexer has to be trained. DeepGEMM's `fp8_mqa_logits` has no gradients,
flash-linear-attention's DSA is a naive reference, and `torch.topk` needs the scores of all pairs in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surgery.ops.kernels import AVAILABLE, block_size, ceil_div, jit, tl

LONGEST = 2048  # keys, at most: all scores are stored, and a program of the selection holds a row of them
TILE = 64  # queries or keys
ELEMENTS = 8192  # scores per program of the selection
WIDEST = 128  # channels of a head, at most


class Rows(NamedTuple):
    """Selection of whole rows, and the KL of the index.

    Attributes:
        chosen: (b, t, s), bool.
        kl: in nats, summed over all rows; None if it was not computed.
        d_queries, d_weights, d_keys: gradients of the KL for the index's queries, head weights and keys.
    """

    chosen: Tensor
    kl: Tensor | None = None
    d_queries: Tensor | None = None
    d_weights: Tensor | None = None
    d_keys: Tensor | None = None


def fits_rows(index_q: Tensor, q: Tensor) -> bool:
    """Return whether the kernels support these: on CUDA, known dtypes, rows and heads within registers."""
    fits_dtype = index_q.dtype == torch.float32 and q.dtype in (torch.bfloat16, torch.float32)
    sizes = q.shape[2] <= LONGEST and max(q.shape[3], index_q.shape[3]) <= WIDEST
    return AVAILABLE and fits_dtype and sizes and q.is_cuda and q.numel() > 0


def rows_fused(
    queries: Tensor, weights: Tensor, keys: Tensor, q: Tensor, k: Tensor, top_k: int, with_kl: bool
) -> Rows:
    """Select the top_k keys of every row, and compute the KL of the index and its gradients.

    Args:
        queries: of the index (b, t, j, i), in float32.
        weights: of the index's heads (b, t, j), in float32.
        keys: of the index (b, t, i).
        q: queries of the attention, whose probabilities are the KL's target (b, h, t, d).
        k: keys of the attention (b, g, t, d).
        top_k: keys to select per row.
        with_kl: whether to compute the KL and its gradients.
    """
    batch, length, heads, size = queries.shape
    index = queries.contiguous(), weights.contiguous(), keys.contiguous()
    tiles = ceil_div(length, TILE)
    scores = weights.new_empty(batch, length, length)
    sizes = {"HEADS": heads, "SIZE": size, "DEEP": block_size(size), "TILE": TILE}
    write_scores[(tiles, tiles, batch)](*index, scores, length, **sizes, num_warps=4, num_stages=1)
    chosen = torch.empty(batch, length, length, dtype=torch.uint8, device=q.device)
    normaliser = weights.new_empty(batch, length)
    wide = block_size(length)
    tall = max(1, ELEMENTS // wide)
    choose_keys[(ceil_div(length, tall), batch)](
        scores,
        chosen,
        normaliser,
        length,
        min(top_k, length),
        TALL=tall,
        WIDE=wide,
        num_warps=8,
        num_stages=1,
    )
    if not with_kl:
        return Rows(chosen.view(torch.bool))
    q, k = q.contiguous(), k.contiguous()
    heads_of = {"Q_HEADS": q.shape[1], "K_HEADS": k.shape[1], "Q_SIZE": q.shape[3]}
    heads_of |= {"Q_DEEP": block_size(q.shape[3]), "TILE": TILE}
    scale = q.shape[3] ** -0.5
    normalisers = weights.new_empty(batch, q.shape[1], length)
    normalise_heads[(tiles, q.shape[1], batch)](
        q, k, chosen, normalisers, length, scale, **heads_of, num_warps=4, num_stages=2
    )
    kl = weights.new_zeros(batch, tiles, tiles)
    compare[(tiles, tiles, batch)](
        q,
        k,
        chosen,
        normalisers,
        normaliser,
        scores,
        kl,
        length,
        scale,
        **heads_of,
        num_warps=4,
        num_stages=2,
    )
    gradients = [torch.empty_like(part) for part in index]
    queries_back[(tiles, batch)](
        *index, scores, gradients[0], gradients[1], length, **sizes, num_warps=4, num_stages=1
    )
    keys_back[(tiles, batch)](*index, scores, gradients[2], length, **sizes, num_warps=4, num_stages=1)
    return Rows(chosen.view(torch.bool), kl.sum(), *gradients)


@jit
def _of_head(queries, row, real, head, channel, HEADS: tl.constexpr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load queries of one head of the index (rows, channels)."""
    return tl.load(
        queries + (row * HEADS + head)[:, None] * SIZE + channel[None, :],
        mask=real[:, None] & (channel < SIZE)[None, :], other=0.0,
    )  # fmt: skip


@jit
def _keys(keys, first, key, length, channel, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load keys (channels, keys) of the sequence that starts at row `first`, in float32."""
    return tl.load(
        keys + (first + key)[None, :] * SIZE + channel[:, None],
        mask=(key < length)[None, :] & (channel < SIZE)[:, None], other=0.0,
    ).to(tl.float32)  # fmt: skip


@jit
def write_scores(  # type: ignore[no-untyped-def]
    queries, weights, keys, scores, length,
    HEADS: tl.constexpr, SIZE: tl.constexpr, DEEP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Compute a tile of scores; tiles above the diagonal are left unwritten, here and below."""
    if tl.program_id(0) <= tl.program_id(1):
        first = tl.program_id(2).to(tl.int64) * length
        key = tl.program_id(0) * TILE + tl.arange(0, TILE)
        token = tl.program_id(1) * TILE + tl.arange(0, TILE)
        row, real, channel = first + token, token < length, tl.arange(0, DEEP)
        theirs = _keys(keys, first, key, length, channel, SIZE)
        total = tl.zeros((TILE, TILE), tl.float32)
        for head in range(HEADS):
            mine = _of_head(queries, row, real, head, channel, HEADS, SIZE)
            weight = tl.load(weights + row * HEADS + head, mask=real, other=0.0)
            product = tl.dot(mine, theirs, input_precision="tf32x3")
            total += weight[:, None] * tl.maximum(product, 0.0)
        inside = real[:, None] & (key < length)[None, :]
        tl.store(scores + row[:, None] * length + key[None, :], total, mask=inside)


@jit
def choose_keys(  # type: ignore[no-untyped-def]
    scores, chosen, normaliser, length, k, TALL: tl.constexpr, WIDE: tl.constexpr
):
    """Select the k largest scores of each row among tokens up to its own, and store their log-sum-exp.

    Among equal scores later tokens are preferred. Scores are compared by their bits, transformed so that they
    sort as the scores do.
    """
    token = tl.program_id(0) * TALL + tl.arange(0, TALL)
    row = tl.program_id(1).to(tl.int64) * length + token
    key = tl.arange(0, WIDE)
    at = row[:, None] * length + key[None, :]
    allowed = (key[None, :] <= token[:, None]) & (token < length)[:, None]
    x = tl.load(scores + at, mask=allowed, other=float("-inf")) + 0.0  # -0 and 0 are equal
    bits = x.to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ranked = bits.to(tl.uint32, bitcast=True) ^ 0x80000000
    least = tl.zeros((TALL,), tl.uint32)
    bit = tl.full((TALL,), 0x80000000, tl.uint32)
    for _ in range(32):
        more = least | bit
        enough = tl.sum((ranked >= more[:, None]).to(tl.int32), 1) >= k
        least = tl.where(enough, more, least)
        bit = bit >> 1
    above, equal = ranked > least[:, None], ranked == least[:, None]
    wanted = k - tl.sum(above.to(tl.int32), 1)
    ties = equal.to(tl.int32)
    behind = tl.sum(ties, 1)[:, None] - tl.cumsum(ties, 1)  # equal ones at later tokens
    picked = (above | (equal & (behind < wanted[:, None]))) & allowed
    tl.store(chosen + at, picked.to(tl.uint8), mask=(token < length)[:, None] & (key < length)[None, :])
    x = tl.where(picked, x, float("-inf"))
    largest = tl.where(token < length, tl.max(x, 1), 0.0)
    total = tl.sum(tl.exp(x - largest[:, None]), 1)
    tl.store(normaliser + row, largest + tl.log(total), mask=token < length)


@jit
def _logits(  # type: ignore[no-untyped-def]
    q, k, batch, head, token, key, length, scale,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, Q_SIZE: tl.constexpr, Q_DEEP: tl.constexpr,
):  # fmt: skip
    """Compute a tile of the logits of one head of the attention."""
    deep = tl.arange(0, Q_DEEP)
    mine = tl.load(
        q + ((batch * Q_HEADS + head) * length + token)[:, None] * Q_SIZE + deep[None, :],
        mask=(token < length)[:, None] & (deep < Q_SIZE)[None, :], other=0.0,
    )  # fmt: skip
    group = batch * K_HEADS + head // (Q_HEADS // K_HEADS)
    theirs = tl.load(
        k + (group * length + key)[None, :] * Q_SIZE + deep[:, None],
        mask=(key < length)[None, :] & (deep < Q_SIZE)[:, None], other=0.0,
    )  # fmt: skip
    return tl.dot(mine, theirs, input_precision="tf32x3") * scale


@jit
def normalise_heads(  # type: ignore[no-untyped-def]
    q, k, chosen, normalisers, length, scale,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, Q_SIZE: tl.constexpr, Q_DEEP: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Compute the log-sum-exp of the selected logits of one head, for a tile of rows."""
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    token = tl.program_id(0) * TILE + tl.arange(0, TILE)
    real = token < length
    largest = tl.full((TILE,), float("-inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    for first in range(0, (tl.program_id(0) + 1) * TILE, TILE):
        key = first + tl.arange(0, TILE)
        picked = tl.load(
            chosen + (batch * length + token)[:, None] * length + key[None, :],
            mask=real[:, None] & (key < length)[None, :], other=0,
        )  # fmt: skip
        logits = _logits(q, k, batch, head, token, key, length, scale, Q_HEADS, K_HEADS, Q_SIZE, Q_DEEP)
        logits = tl.where(picked != 0, logits, float("-inf"))
        above = tl.maximum(largest, tl.max(logits, 1))
        base = tl.where(above == float("-inf"), 0.0, above)  # of a row without any so far
        total = total * tl.exp(largest - base) + tl.sum(tl.exp(logits - base[:, None]), 1)
        largest = above
    at = normalisers + (batch * Q_HEADS + head) * length + token
    tl.store(at, largest + tl.log(total), mask=real)


@jit
def compare(  # type: ignore[no-untyped-def]
    q, k, chosen, normalisers, normaliser, scores, kl, length, scale,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, Q_SIZE: tl.constexpr, Q_DEEP: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Compute a tile's part of the KL, and overwrite its scores with their gradient."""
    if tl.program_id(0) <= tl.program_id(1):
        batch = tl.program_id(2).to(tl.int64)
        key = tl.program_id(0) * TILE + tl.arange(0, TILE)
        token = tl.program_id(1) * TILE + tl.arange(0, TILE)
        row, real = batch * length + token, token < length
        at = row[:, None] * length + key[None, :]
        inside = real[:, None] & (key < length)[None, :]
        picked = tl.load(chosen + at, mask=inside, other=0) != 0
        target = tl.zeros((TILE, TILE), tl.float32)
        for head in range(Q_HEADS):
            logits = _logits(q, k, batch, head, token, key, length, scale, Q_HEADS, K_HEADS, Q_SIZE, Q_DEEP)
            whole = tl.load(normalisers + (batch * Q_HEADS + head) * length + token, mask=real, other=0.0)
            target += tl.where(picked, tl.exp(logits - whole[:, None]), 0.0)
        target = target / Q_HEADS
        whole = tl.load(normaliser + row, mask=real, other=0.0)
        logs = tl.where(picked, tl.load(scores + at, mask=inside, other=0.0) - whole[:, None], 0.0)
        positive = target > 0.0
        terms = tl.where(positive, target * (tl.log(tl.where(positive, target, 1.0)) - logs), 0.0)
        tile = (batch * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
        tl.store(kl + tile, tl.sum(tl.sum(terms, 1), 0))
        tl.store(scores + at, tl.where(picked, tl.exp(logs) - target, 0.0), mask=inside)


@jit
def queries_back(  # type: ignore[no-untyped-def]
    queries, weights, keys, d_scores, d_queries, d_weights, length,
    HEADS: tl.constexpr, SIZE: tl.constexpr, DEEP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a tile's queries and head weights from all keys that they see."""
    first_row = tl.program_id(1).to(tl.int64) * length
    token = tl.program_id(0) * TILE + tl.arange(0, TILE)
    row, real, channel = first_row + token, token < length, tl.arange(0, DEEP)
    for head in range(HEADS):
        mine = _of_head(queries, row, real, head, channel, HEADS, SIZE)
        weight = tl.load(weights + row * HEADS + head, mask=real, other=0.0)
        d_weight = tl.zeros((TILE,), tl.float32)
        total = tl.zeros((TILE, DEEP), tl.float32)
        for first in range(0, (tl.program_id(0) + 1) * TILE, TILE):
            key = first + tl.arange(0, TILE)
            theirs = _keys(keys, first_row, key, length, channel, SIZE)
            d = tl.load(
                d_scores + row[:, None] * length + key[None, :],
                mask=real[:, None] & (key < length)[None, :], other=0.0,
            )  # fmt: skip
            product = tl.dot(mine, theirs, input_precision="tf32x3")
            d_weight += tl.sum(d * tl.maximum(product, 0.0), 1)
            through = tl.where(product > 0.0, d * weight[:, None], 0.0)
            total = tl.dot(through, tl.trans(theirs), total, input_precision="tf32x3")
        tl.store(d_weights + row * HEADS + head, d_weight, mask=real)
        tl.store(
            d_queries + (row * HEADS + head)[:, None] * SIZE + channel[None, :], total,
            mask=real[:, None] & (channel < SIZE)[None, :],
        )  # fmt: skip


@jit
def keys_back(  # type: ignore[no-untyped-def]
    queries, weights, keys, d_scores, d_keys, length,
    HEADS: tl.constexpr, SIZE: tl.constexpr, DEEP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a tile's keys from all tokens that see them."""
    first_row = tl.program_id(1).to(tl.int64) * length
    key = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, DEEP)
    theirs = _keys(keys, first_row, key, length, channel, SIZE)
    total = tl.zeros((TILE, DEEP), tl.float32)
    for first in range(tl.program_id(0) * TILE, length, TILE):
        token = first + tl.arange(0, TILE)
        row, real = first_row + token, token < length
        d = tl.load(
            d_scores + row[:, None] * length + key[None, :],
            mask=real[:, None] & (key < length)[None, :], other=0.0,
        )  # fmt: skip
        for head in range(HEADS):
            mine = _of_head(queries, row, real, head, channel, HEADS, SIZE)
            weight = tl.load(weights + row * HEADS + head, mask=real, other=0.0)
            product = tl.dot(mine, theirs, input_precision="tf32x3")
            through = tl.where(product > 0.0, d * weight[:, None], 0.0)
            total = tl.dot(tl.trans(through), mine, total, input_precision="tf32x3")
    at = (first_row + key)[:, None] * SIZE + channel[None, :]
    tl.store(d_keys + at, total, mask=(key < length)[:, None] & (channel < SIZE)[None, :])
