"""The compressed and the selected branch of Native Sparse Attention, in chunks of queries.

Batch and key/value heads are one dimension n here, since each group of query heads selects its own blocks;
the r query heads of a group share them. Tokens are counted from the first real one of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from surgery.mixers.nsa.sizes import Sizes
from surgery.mixers.sparse.chunks import recomputed, row_chunks
from surgery.mixers.sparse.gathered import attend_each
from surgery.mixers.sparse.select import as_mask, top_tokens

# Keys and values are gathered for sequences longer than this multiple of the selected tokens, if every query
# head has its own keys; fewer key heads lower the threshold in proportion. Measured for training on one CPU
# core: with as many key heads as heads, masking takes 1/2 to 3/4 of the time of gathering at 32, and 5/4 at
# 64; with a quarter of them 9/10 at 64, and 6/5 at 128. An accelerator's is that of sparse top-k attention.
GATHER_FROM = {"cpu": 48, "accelerator": 100}


class Keys(NamedTuple):
    """Keys and values, of tokens or of compressed blocks."""

    k: Float[Tensor, "n s d"]
    v: Float[Tensor, "n s d"]


def block_attention(
    q: Float[Tensor, "n r t d"],
    tokens: Keys,
    pooled: Keys,
    positions: Int[Tensor, "#n t"],
    sizes: Sizes,
    seen: int,
) -> tuple[Float[Tensor, "n r t d"], Float[Tensor, "n r t d"] | None]:
    """Return the outputs of the compressed and of the selected branch.

    Args:
        q: queries of the new tokens.
        tokens: keys and values of all tokens.
        pooled: keys and values of all complete blocks.
        positions: of the new tokens.
        sizes: of the blocks.
        seen: upper bound of the number of tokens before the new ones.

    Returns:
        Both outputs; None for the selected branch if every block is selected, which makes it full attention.
    """
    count, heads, length, width = q.shape
    total = tokens.k.shape[1]
    everything = total <= sizes.blocks * sizes.block
    gathers = not everything and _gathers(q, total, sizes)
    widest = max(heads * pooled.k.shape[1], sizes.blocks * sizes.block * width if gathers else total)
    chunks = list(row_chunks(length, count * widest, q.device))
    lengths = [rows.stop - rows.start for rows in chunks]
    compressed, selected = [], []
    # split, not sliced: the gradient of a slice is as large as the sliced tensor
    for rows, queries, own in zip(chunks, q.split(lengths, 2), positions.split(lengths, 1), strict=True):
        end = seen + rows.stop  # later tokens are none of these queries'
        k, v = (x[:, : sizes.complete(end)] for x in pooled)
        output, importance = recomputed(_compressed, queries, k, v, own, sizes)
        compressed.append(output)
        if everything:
            continue
        choice = *chosen_blocks(importance, own, sizes, end), own, sizes.block
        if gathers:
            selected.append(recomputed(_gathered, queries, *tokens, *choice))
        else:
            k, v = (x[:, :end] for x in tokens)
            selected.append(recomputed(_masked, queries, k, v, *choice))
    return torch.cat(compressed, dim=2), torch.cat(selected, dim=2) if selected else None


@torch.no_grad()
def chosen_blocks(
    importance: Float[Tensor, "n t m"], positions: Int[Tensor, "#n t"], sizes: Sizes, total: int
) -> tuple[Int[Tensor, "n t k"], Bool[Tensor, "n t k"]]:
    """Return the blocks that each query selects, and a mask of the real ones: there may be fewer so far.

    A selected block's score is the sum of the probabilities of the compressed blocks that it shares tokens
    with, as often as it shares a stride of them (equation 9; written there, the index of a compressed block
    falls with both sums, so that only earlier tokens would count). The query's own block, the one before and
    the first are taken first (section 4.1).

    Args:
        importance: probability of every compressed block, summed over the heads of a group (equation 10).
        positions: of the queries.
        sizes: of the blocks.
        total: number of tokens, the later ones included.
    """
    count = -(-total // sizes.block)
    overlap, per_block = sizes.pooled // sizes.stride, sizes.block // sizes.stride
    missing = count * per_block - importance.shape[-1]  # strides without a compressed block that begins there
    strides = F.pad(importance, (overlap - 1, missing))
    if overlap > 1:
        strides = strides.unfold(-1, overlap, 1).sum(-1)
    scores = strides.unflatten(-1, (count, per_block)).sum(-1)
    index = torch.arange(count, device=scores.device)
    own = (positions // sizes.block)[..., None]
    allowed = index <= own
    fixed = (index == 0) | (index >= own - 1)
    return top_tokens(scores.masked_fill(fixed, torch.inf), allowed, min(sizes.blocks, count))


def _compressed(
    q: Float[Tensor, "n r t d"],
    keys: Float[Tensor, "n m d"],
    values: Float[Tensor, "n m d"],
    positions: Int[Tensor, "#n t"],
    sizes: Sizes,
) -> tuple[Float[Tensor, "n r t d"], Float[Tensor, "n t m"]]:
    """Return the attention to complete blocks, and their probabilities summed over the group's heads.

    A query before the end of the first block sees none, and its output is zero.
    """
    ends = torch.arange(keys.shape[1], device=q.device) * sizes.stride + sizes.pooled - 1
    hidden = (ends > positions[..., None])[:, None]
    logits = (q.flatten(1, 2) @ keys.transpose(1, 2)).unflatten(1, q.shape[1:3]) * q.shape[-1] ** -0.5
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits = logits.to(dtype).masked_fill(hidden, torch.finfo(dtype).min)
    probabilities = logits.softmax(-1).masked_fill(hidden, 0)
    output = probabilities.to(values.dtype).flatten(1, 2) @ values
    return output.unflatten(1, q.shape[1:3]), probabilities.detach().sum(1)


def _gathered(
    q: Float[Tensor, "n r t d"],
    keys: Float[Tensor, "n s d"],
    values: Float[Tensor, "n s d"],
    chosen: Int[Tensor, "n t k"],
    real: Bool[Tensor, "n t k"],
    positions: Int[Tensor, "#n t"],
    block: int,
) -> Float[Tensor, "n r t d"]:
    """Return the attention to the tokens of the chosen blocks, which are gathered for every query."""
    count, _, length, width = q.shape
    total = keys.shape[1]
    tokens = chosen[..., None] * block + torch.arange(block, device=q.device)
    seen = (real[..., None] & (tokens <= positions[..., None, None])).flatten(2)[:, None]
    # rows of whole blocks are faster to gather, but filling up the last block would copy all of them
    unit = 1 if total % block else block
    rows = chosen if unit == block else tokens.flatten(2).clamp(max=total - 1)
    rows = rows + torch.arange(count, device=q.device)[:, None, None] * (total // unit)
    k, v = (
        F.embedding(rows, x.reshape(-1, unit * width)).view(count, 1, length, -1, width)
        for x in (keys, values)
    )
    return attend_each(q.transpose(1, 2)[:, None], k, v, seen)[0][:, 0].transpose(1, 2)


def _masked(
    q: Float[Tensor, "n r t d"],
    keys: Float[Tensor, "n s d"],
    values: Float[Tensor, "n s d"],
    chosen: Int[Tensor, "n t k"],
    real: Bool[Tensor, "n t k"],
    positions: Int[Tensor, "#n t"],
    block: int,
) -> Float[Tensor, "n r t d"]:
    """Return the attention to the tokens of the chosen blocks, under a mask over all tokens."""
    total = keys.shape[1]
    mask = as_mask(chosen, real, -(-total // block)).repeat_interleave(block, dim=-1)[..., :total]
    mask = mask & (torch.arange(total, device=mask.device) <= positions[..., None])
    return F.scaled_dot_product_attention(
        q, keys[:, None], values[:, None], attn_mask=mask[:, None], enable_gqa=q.shape[1] > 1
    )


def _gathers(q: Float[Tensor, "n r t d"], total: int, sizes: Sizes) -> bool:
    """Return whether gathering is faster; for a single query it always is."""
    times = GATHER_FROM["cpu" if q.device.type == "cpu" else "accelerator"]
    return q.shape[2] == 1 or total * q.shape[1] > times * sizes.blocks * sizes.block
