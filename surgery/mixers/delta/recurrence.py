"""Parts of the delta rule that do not depend on how a state decays: token by token, and between chunks.

Shapes: b batch, h heads, t tokens, k and v widths of a head's key and value; `decay` is 1 wide where all
channels of a key decay alike, else k.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.mixers.delta.sizes import UNIT_EPS, StateSizes

STEPWISE = 8  # tokens up to which single steps are faster than a chunk (measured on a CPU)

Result = tuple[Float[Tensor, "b h t v"], Float[Tensor, "b h k v"]]
Rule = Callable[..., Result]  # (q, k, v, g, beta, state)


def token_by_token(
    q: Float[Tensor, "b h t k"],
    k: Float[Tensor, "b h t k"],
    v: Float[Tensor, "b h t v"],
    g: Float[Tensor, "b h t decay"] | None,
    beta: Float[Tensor, "b h t"],
    state: Float[Tensor, "b h k v"],
) -> Result:
    """Return (outputs, state after the last token) of the delta rule, by one step per token."""
    shape = state.shape
    state = state.flatten(0, 1)
    decay = g.flatten(0, 1).exp()[..., None].unbind(1) if g is not None else None
    rows = [x.flatten(0, 1)[:, :, None].unbind(1) for x in (q, k, v, beta[..., None])]  # (b h, 1, width)
    outputs = []
    for token, (query, key, value, rate) in enumerate(zip(*rows, strict=True)):
        if decay is not None:
            state = state * decay[token]
        error = torch.baddbmm(value, key, state, alpha=-1)
        state = torch.baddbmm(state, key.transpose(1, 2), rate * error)
        outputs.append(torch.bmm(query, state))
    return torch.cat(outputs, dim=1).unflatten(0, shape[:2]), state.view(shape)


def between_chunks(
    w: Float[Tensor, "bh n c k"],
    u: Float[Tensor, "bh n c v"],
    keys: Float[Tensor, "bh n c k"],
    decay: Float[Tensor, "bh n decay"],
    state: Float[Tensor, "bh k v"],
) -> tuple[Float[Tensor, "bh n k v"], Float[Tensor, "bh n c v"], Float[Tensor, "bh k v"]]:
    """Return (states before each chunk, writes of each token, final state) (docs/papers.md, In chunks).

    For chunk n, with S the state before it: written_n = u_n - w_n S, S <- decay_n S + keys_n^T written_n.
    `keys` are decayed to the end of their chunk; `decay` is that of a whole chunk.
    """
    factors = decay[..., None]
    states, writes = [], []
    # unbind instead of indexing: the backward of n indices would fill n tensors of the whole size
    for reading, new, key, factor in zip(
        w.unbind(1), u.unbind(1), keys.transpose(-1, -2).unbind(1), factors.unbind(1), strict=True
    ):
        states.append(state)
        written = torch.baddbmm(new, reading, state, alpha=-1)
        writes.append(written)
        state = torch.baddbmm(state * factor, key, written)
    return torch.stack(states, dim=1), torch.stack(writes, dim=1), state


def in_chunks(x: Float[Tensor, "b h t d"], chunk: int) -> Float[Tensor, "b*h n {chunk} d"]:
    """Split into chunks; the last one is padded with zeros, which neither write nor decay the state."""
    missing = -x.shape[2] % chunk
    if missing:
        x = torch.nn.functional.pad(x, (0, 0, 0, missing))
    return x.reshape(x.shape[0] * x.shape[1], -1, chunk, x.shape[3])


def by_heads(
    qkv: Float[Tensor, "b t channels"],
    g: Float[Tensor, "b t *rates"] | None,
    beta: Float[Tensor, "b t h"],
    state: Float[Tensor, "b h k v"],
    sizes: StateSizes,
    rule: Rule,
) -> tuple[Float[Tensor, "b t h v"], Float[Tensor, "b h k v"]]:
    """Return (outputs, state after the last token) of a rule, with all heads' queries, keys, values in `qkv`.

    Queries and keys are normalised to length one, and queries scaled by key^-0.5. The rule gets g of its
    shape, with tokens behind heads: (b, t, h, ...) becomes (b, h, t, ...).
    """
    keys = sizes.heads * sizes.key
    q, k, v = (
        part.unflatten(2, (sizes.heads, -1)).transpose(1, 2)
        for part in qkv.to(beta.dtype).split((keys, keys, sizes.heads * sizes.value), dim=2)
    )
    g = g.transpose(1, 2) if g is not None else None
    y, state = rule(_unit(q) * sizes.key**-0.5, _unit(k), v, g, beta.transpose(1, 2), state)
    return y.transpose(1, 2), state


def empty_state(qkv: Float[Tensor, "b t channels"], dtype: torch.dtype, sizes: StateSizes) -> Tensor:
    """Return the state before the first token: zeros (b, heads, key, value)."""
    shape = (qkv.shape[0], sizes.heads, sizes.key, sizes.value)
    return torch.zeros(shape, dtype=dtype, device=qkv.device)


def _unit(x: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape width"]:
    return x * (x.square().sum(-1, keepdim=True) + UNIT_EPS).rsqrt()
