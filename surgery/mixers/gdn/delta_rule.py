"""The gated delta rule, chunkwise for long inputs and token by token for short ones.

See docs/papers.md, Gated DeltaNet and In chunks.

A head has a state S (k, v). Each token decays it, corrects the value stored for its key, and reads it:
S <- exp(g) S;  S <- S + beta k (v - S^T k)^T;  o = S^T q  (arXiv 2412.06464, eq. 10).

Shapes: b batch, h heads, t tokens, k and v widths of a head's key and value. Queries are already scaled and
keys normalised, all in the same dtype, float32 or better. `g` <= 0 is the logarithm of the decay.

Why not flash-linear-attention: `fla.ops` can't be imported without Triton, and this also runs on CPUs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.mixers.delta.recurrence import STEPWISE, Result, between_chunks, in_chunks, token_by_token

CHUNK = 64  # tokens, on an accelerator, where fewer and larger steps are faster
CPU_CHUNK = 32  # a training step is 0 to 20 % faster than with 64, at key sizes 32 to 64


def delta_rule(
    q: Float[Tensor, "b h t k"],
    k: Float[Tensor, "b h t k"],
    v: Float[Tensor, "b h t v"],
    g: Float[Tensor, "b h t"] | None,
    beta: Float[Tensor, "b h t"],
    state: Float[Tensor, "b h k v"] | None = None,
) -> Result:
    """Return (outputs, state after the last token), computed by the faster form. g None: no decay."""
    form = stepwise if q.shape[2] <= STEPWISE else chunkwise
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
    # autocast would compute the products in bfloat16, too coarse for a state that all later tokens use
    with torch.autocast(q.device.type, enabled=False):
        return form(q, k, v, g, beta, state)


def stepwise(
    q: Float[Tensor, "b h t k"],
    k: Float[Tensor, "b h t k"],
    v: Float[Tensor, "b h t v"],
    g: Float[Tensor, "b h t"] | None,
    beta: Float[Tensor, "b h t"],
    state: Float[Tensor, "b h k v"],
) -> Result:
    """Compute the delta rule token by token."""
    return token_by_token(q, k, v, g[..., None] if g is not None else None, beta, state)


def chunkwise(
    q: Float[Tensor, "b h t k"],
    k: Float[Tensor, "b h t k"],
    v: Float[Tensor, "b h t v"],
    g: Float[Tensor, "b h t"] | None,
    beta: Float[Tensor, "b h t"],
    state: Float[Tensor, "b h k v"],
    chunk: int | None = None,
) -> Result:
    """Compute the delta rule in chunks of `chunk` tokens (None: the device's default).

    Tokens of a chunk are processed by matrix products, and the state is computed only between chunks. Inside
    a chunk, c is the running sum of g and D_ij = exp(c_i - c_j) for i >= j. The tokens write
    A^-1 (beta V - beta exp(c) K S) with A = I + strictly lower part of beta K K^T * D: one triangular solve
    gives both terms, u and w, before the incoming state S is known.
    """
    length = q.shape[2]
    chunk = min(chunk or (CPU_CHUNK if q.device.type == "cpu" else CHUNK), length)
    q, k, v, beta = (in_chunks(x, chunk) for x in (q, k, v, beta[..., None]))
    k_beta = beta * k
    overlap = k_beta @ k.transpose(-1, -2)
    scores = q @ k.transpose(-1, -2)
    if g is None:
        from_start = k_beta
        decay = k.new_ones(*k.shape[:2], 1)
        scores = scores.tril()
    else:
        total = in_chunks(g[..., None], chunk).cumsum(2)  # (b h, n, c, 1)
        later = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
        # masked before exp: exponents above the diagonal are positive and could overflow
        between = (total - total.transpose(-1, -2)).masked_fill(later, -torch.inf).exp()
        overlap, scores = overlap * between, scores * between
        since_start = total.exp()
        from_start, q = k_beta * since_start, q * since_start
        last = total[:, :, -1:]
        k = k * (last - total).exp()
        decay = last.flatten(2).exp()
    both = torch.cat((beta * v, from_start), dim=-1)
    # unitriangular: reads only the strictly lower triangle of its matrix
    u, w = torch.linalg.solve_triangular(overlap, both, upper=False, unitriangular=True).split(
        (v.shape[-1], k.shape[-1]), dim=-1
    )
    before, written, after = between_chunks(w, u, k, decay, state.flatten(0, 1))
    outputs = (q @ before).add_(scores @ written).flatten(1, 2)[:, :length]
    return outputs.unflatten(0, state.shape[:2]), after.view(state.shape)
