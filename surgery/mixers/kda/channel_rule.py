"""The delta rule with a decay per key channel, chunkwise for long inputs and token by token for short ones.

See docs/papers.md, Kimi Delta Attention.

A head has a state S (k, v). Each token decays its rows, corrects the value stored for its key, and reads it:
S <- diag(exp(g)) S;  S <- S + beta k (v - S^T k)^T;  o = S^T q  (arXiv 2510.26692, section 3).

Shapes: b batch, h heads, t tokens, k and v widths of a head's key and value. Queries are already scaled and
keys normalised, all in the same dtype, float32 or better. `g` <= 0 is the logarithm of each channel's decay.

Why not flash-linear-attention: `fla.ops` can't be imported without Triton, and this also runs on CPUs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.mixers.delta.recurrence import STEPWISE, Result, between_chunks, in_chunks, token_by_token

CHUNK = 64  # tokens, on an accelerator
CPU_CHUNK = 32


def channel_rule(
    q: Float[Tensor, "b h t k"],
    k: Float[Tensor, "b h t k"],
    v: Float[Tensor, "b h t v"],
    g: Float[Tensor, "b h t k"],
    beta: Float[Tensor, "b h t"],
    state: Float[Tensor, "b h k v"],
) -> Result:
    """Return (outputs, state after the last token), computed by the faster form."""
    form = token_by_token if q.shape[2] <= STEPWISE else chunkwise
    # autocast would compute the products in bfloat16, too coarse for a state that all later tokens use
    with torch.autocast(q.device.type, enabled=False):
        return form(q, k, v, g, beta, state)


def chunkwise(
    q: Float[Tensor, "b h t k"],
    k: Float[Tensor, "b h t k"],
    v: Float[Tensor, "b h t v"],
    g: Float[Tensor, "b h t k"],
    beta: Float[Tensor, "b h t"],
    state: Float[Tensor, "b h k v"],
    chunk: int | None = None,
) -> Result:
    """Compute the rule in chunks of `chunk` tokens, a power of two (None: the device's default).

    As Gated DeltaNet's chunks, but for the products of queries and keys, and of keys with each other, which
    have a decay of their own in every channel (`decayed_products`).
    """
    length = q.shape[2]
    shortest = 1 << (length - 1).bit_length()
    chunk = min(chunk or (CPU_CHUNK if q.device.type == "cpu" else CHUNK), shortest)
    q, k, v, beta = (in_chunks(x, chunk) for x in (q, k, v, beta[..., None]))
    k_beta = beta * k
    scores, overlap, since, until = decayed_products(q, k_beta, k, in_chunks(g, chunk).exp())
    both = torch.cat((beta * v, k_beta * since), dim=-1)
    # unitriangular: reads only the strictly lower triangle of its matrix
    u, w = torch.linalg.solve_triangular(overlap, both, upper=False, unitriangular=True).split(
        (v.shape[-1], k.shape[-1]), dim=-1
    )
    before, written, after = between_chunks(w, u, k * until, since[:, :, -1], state.flatten(0, 1))
    outputs = ((q * since) @ before).add_(scores @ written).flatten(1, 2)[:, :length]
    return outputs.unflatten(0, state.shape[:2]), after.view(state.shape)


def decayed_products(
    q: Float[Tensor, "bh n c k"],
    k_beta: Float[Tensor, "bh n c k"],
    k: Float[Tensor, "bh n c k"],
    decay: Float[Tensor, "bh n c k"],
) -> tuple[
    Float[Tensor, "bh n c c"], Float[Tensor, "bh n c c"], Float[Tensor, "bh n c k"], Float[Tensor, "bh n c k"]
]:
    """Return (scores, overlap, since, until) of chunks of c tokens, a power of two.

    scores_ij = sum over channels of q_i k_j times the decays of tokens j+1 to i, zero for j > i; overlap
    likewise with `k_beta` in place of q, without its diagonal. `since` is the product of a chunk's decays up
    to each token, itself included, and `until` that of all after it.

    A block of two halves needs, between a token i of the second and j of the first, the decays of the first
    half behind j times those of the second up to i. So blocks double from one token to the chunk by one
    matrix product each, in which decays are only ever multiplied: nothing can overflow, as quotients of
    running products would, and nothing cancels, as differences of running sums of logarithms do.
    """
    batch, count, chunk, width = k.shape
    q, k_beta, k, decay = (x.reshape(batch * count, chunk, width) for x in (q, k_beta, k, decay))
    scores = (q * k).sum(-1)[..., None, None]  # (chunks, blocks, tokens of a block, the same)
    overlap = torch.zeros_like(scores)
    since, until = decay[:, :, None], torch.ones_like(decay)[:, :, None]
    size = 1
    while size < chunk:
        halves = (batch * count, chunk // (2 * size), 2, size)
        (first_since, second_since), (first_until, second_until) = (
            x.view(*halves, width).unbind(2) for x in (since, until)
        )
        keys = k.view(*halves, width)[:, :, 0] * first_until
        rows = torch.cat([x.view(*halves, width)[:, :, 1] * second_since for x in (q, k_beta)], dim=2)
        crossing = (rows @ keys.transpose(-1, -2)).split(size, dim=2)
        scores, overlap = (
            _joined(x.view(*halves, size), across)
            for x, across in zip((scores, overlap), crossing, strict=True)
        )
        since = torch.cat((first_since, second_since * first_since[:, :, -1:]), dim=2)
        whole = second_since[:, :, -1:]
        until = torch.cat((first_until * whole, second_until), dim=2)
        size *= 2
    return (
        scores.view(batch, count, chunk, chunk),
        overlap.view(batch, count, chunk, chunk),
        since.view(batch, count, chunk, width),
        until.view(batch, count, chunk, width),
    )


def _joined(
    halves: Float[Tensor, "chunks blocks 2 s s"], across: Float[Tensor, "chunks blocks s s"]
) -> Float[Tensor, "chunks blocks 2*s 2*s"]:
    """Return blocks of both halves' matrices on the diagonal, `across` below it, and zeros above it."""
    first, second = halves.unbind(2)
    above = torch.cat((first, torch.zeros_like(first)), dim=3)
    return torch.cat((above, torch.cat((across, second), dim=3)), dim=2)
