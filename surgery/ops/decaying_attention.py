"""Linear attention with a decaying state, in chunks for long inputs and token by token for short ones.

See docs/papers.md, Decaying linear attention.

A head has a state S (k, v). Each token decays it, adds its value under its key, and reads it:
S <- Diag(exp(g)) S + k v^T;  o = S^T q  (RetNet, arXiv 2307.08621; Mamba-2, arXiv 2405.21060; HGRN2, arXiv
2404.07904).

Shapes: b batch, h heads, t tokens, k and v widths of a head's key and value. All tensors have the same dtype,
float32 or better. `g` <= 0 is the logarithm of the decay: one number for all channels of a key, or one for
each of them. Queries, keys and decays may have 1 instead of h or b where these are the same for all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 64  # tokens, on an accelerator; a power of 2, which is halved again and again
CPU_CHUNK = 32
STEPWISE = 8  # tokens up to which single steps are faster than a chunk (measured on a CPU)

Result = tuple[Float[Tensor, "b h t v"], Float[Tensor, "b h k v"]]


def decaying_attention(
    q: Float[Tensor, "#b #h t k"],
    k: Float[Tensor, "#b #h t k"],
    v: Float[Tensor, "b h t v"],
    g: Float[Tensor, "#b #h t #k"],
    state: Float[Tensor, "b h k v"] | None = None,
) -> Result:
    """Return (outputs, state after the last token), computed by the faster form."""
    form = stepwise if v.shape[2] <= STEPWISE else chunkwise
    if state is None:
        state = v.new_zeros(*v.shape[:2], q.shape[3], v.shape[3])
    # autocast would compute the products in bfloat16, too coarse for a state that all later tokens use
    with torch.autocast(q.device.type, enabled=False):
        return form(q, k, v, g, state)


def stepwise(
    q: Float[Tensor, "#b #h t k"],
    k: Float[Tensor, "#b #h t k"],
    v: Float[Tensor, "b h t v"],
    g: Float[Tensor, "#b #h t #k"],
    state: Float[Tensor, "b h k v"],
) -> Result:
    """Compute the recurrence token by token."""
    shape = state.shape
    decays = g.exp()[..., None].unbind(2)  # (b, h, 1 or k, 1)
    rows = [
        x.expand(*shape[:2], -1, -1).flatten(0, 1)[:, :, None].unbind(1) for x in (q, k, v)
    ]  # (b h, 1, width)
    outputs = []
    for decay, query, key, value in zip(decays, *rows, strict=True):
        decayed = (state * decay).flatten(0, 1)
        written = torch.baddbmm(decayed, key.transpose(1, 2), value)
        outputs.append(torch.bmm(query, written))
        state = written.unflatten(0, shape[:2])
    return torch.cat(outputs, dim=1).unflatten(0, shape[:2]), state


def chunkwise(
    q: Float[Tensor, "#b #h t k"],
    k: Float[Tensor, "#b #h t k"],
    v: Float[Tensor, "b h t v"],
    g: Float[Tensor, "#b #h t #k"],
    state: Float[Tensor, "b h k v"],
    chunk: int | None = None,
) -> Result:
    """Compute the recurrence in chunks of `chunk` tokens, a power of 2 (None: the device's default).

    Tokens of a chunk are processed by matrix products, and only states are passed between chunks.
    """
    length = v.shape[2]
    chunk = chunk or (CPU_CHUNK if q.device.type == "cpu" else CHUNK)
    q, k, v, g = (_chunks(x, chunk) for x in (q, k, v, g))
    inside = _one_decay(q, k, v, g) if g.shape[-1] == 1 else _decay_per_channel(q, k, v, g)
    added = (k * inside.to_end.exp()).transpose(-1, -2) @ v
    before, after = _scan(added, inside.whole.exp()[..., None], state)
    outputs = inside.outputs + (q * inside.from_start.exp()) @ before
    return outputs.flatten(2, 3)[:, :, :length], after


class _Inside(NamedTuple):
    """Part of the outputs that comes from the same chunk, and sums of g, all of them at most 0.

    Attributes:
        outputs: (b, h, n, c, v).
        from_start: sum from the chunk's first token to each token, itself included.
        to_end: sum from behind each token to the chunk's last one.
        whole: sum over the chunk (b, h, n, 1 or k).
    """

    outputs: Float[Tensor, "b h n c v"]
    from_start: Float[Tensor, "#b #h n c #k"]
    to_end: Float[Tensor, "#b #h n c #k"]
    whole: Float[Tensor, "#b #h n #k"]


def _one_decay(
    q: Float[Tensor, "#b #h n c k"],
    k: Float[Tensor, "#b #h n c k"],
    v: Float[Tensor, "b h n c v"],
    g: Float[Tensor, "#b #h n c 1"],
) -> _Inside:
    """Decay the scores of a chunk, since one decay for all channels is a factor of the product q.k.

    Sums between two tokens are not differences of sums from the start: these lose digits after strong decays.
    """
    size = g.shape[3]
    later = torch.ones(size, size, dtype=torch.bool, device=g.device).triu(1)
    # row t, column s: sum of g behind s up to t; masked before exp, as there is none ahead of time
    between = g.expand(*g.shape[:-1], size).masked_fill(~later.mT, 0).cumsum(3)
    from_start = g.cumsum(3)
    scores = q @ k.transpose(-1, -2) * between.masked_fill(later, -torch.inf).exp()
    return _Inside(scores @ v, from_start, between[..., -1:, :].mT, from_start[..., -1, :])


def _decay_per_channel(
    q: Float[Tensor, "#b #h n c k"],
    k: Float[Tensor, "#b #h n c k"],
    v: Float[Tensor, "b h n c v"],
    g: Float[Tensor, "#b #h n c k"],
) -> _Inside:
    """Join neighbouring blocks until a chunk is one block, from blocks of single tokens.

    The later of two blocks reads the earlier one through the border between them: a query is decayed from
    there to its token, a key from its token to there. Both exponents are sums of g within one block, at most
    0, and no sum is the difference of two longer ones, which would lose digits after strong decays.
    """
    width = g.shape[3]
    outputs = (q * k).sum(-1, keepdim=True) * v
    from_start, to_end = g, torch.zeros_like(g)
    whole = g.unsqueeze(4)  # (b, h, n, blocks, 1, k)
    size = 1
    while size < width:
        queries, keys, values, starts, ends, out = (
            x.unflatten(3, (-1, 2, size)) for x in (q, k, v, from_start, to_end, outputs)
        )  # (b, h, n, pairs, 2, size, width)
        query = queries[..., 1, :, :] * starts[..., 1, :, :].exp()
        key = keys[..., 0, :, :] * ends[..., 0, :, :].exp()
        read = (query @ key.transpose(-1, -2)) @ values[..., 0, :, :]
        outputs = torch.stack((out[..., 0, :, :], out[..., 1, :, :] + read), dim=4).flatten(3, 5)
        first, second = whole.unflatten(3, (-1, 2)).unbind(4)
        from_start = torch.stack((starts[..., 0, :, :], starts[..., 1, :, :] + first), dim=4).flatten(3, 5)
        to_end = torch.stack((ends[..., 0, :, :] + second, ends[..., 1, :, :]), dim=4).flatten(3, 5)
        whole = first + second
        size *= 2
    return _Inside(outputs, from_start, to_end, whole.flatten(3, 5))


def _scan(
    added: Float[Tensor, "b h n k v"],
    decay: Float[Tensor, "#b #h n #k 1"],
    state: Float[Tensor, "b h k v"],
) -> tuple[Float[Tensor, "b h n k v"], Float[Tensor, "b h k v"]]:
    """Return (states before each chunk, final state): S <- decay_n S + added_n for chunk n."""
    states = []
    # unbind instead of indexing: the backward of n indices would fill n tensors of the whole size
    for new, factor in zip(added.unbind(2), decay.unbind(2), strict=True):
        states.append(state)
        state = torch.addcmul(new, state, factor)
    return torch.stack(states, dim=2), state


def _chunks(x: Float[Tensor, "b h t d"], chunk: int) -> Float[Tensor, "b h n {chunk} d"]:
    """Split into chunks; the last one is padded with zeros, which neither write nor decay the state."""
    missing = -x.shape[2] % chunk
    if missing:
        x = torch.nn.functional.pad(x, (0, 0, 0, missing))
    chunks: Tensor = x.unflatten(2, (-1, chunk))
    return chunks
