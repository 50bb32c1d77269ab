"""The only sequential part of the chunkwise delta rule: the state handed from chunk to chunk."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.mixers.gdn.scan_triton import ScanChunks, fits_kernel


def scan_chunks(
    w: Float[Tensor, "bh n c k"],
    u: Float[Tensor, "bh n c v"],
    keys: Float[Tensor, "bh n c k"],
    decay: Float[Tensor, "bh n"],
    state: Float[Tensor, "bh k v"],
) -> tuple[Float[Tensor, "bh n k v"], Float[Tensor, "bh n c v"], Float[Tensor, "bh k v"]]:
    """The states before each chunk, what each token writes, the state after all (papers.md 3.3).

    For chunk n, with S the state before it: written_n = u_n - w_n S, S <- decay_n S + keys_n^T written_n.
    `keys` are faded to the end of their chunk; `decay` is that of a whole chunk. n chunks of c tokens; the
    batch and its heads are one dimension. All in one dtype, float32 or better.

    One kernel on CUDA, however long the text; elsewhere three products a chunk.
    """
    if fits_kernel(w, u):
        found: tuple[Tensor, Tensor, Tensor] = ScanChunks.apply(w, u, keys, decay, state)
        return found
    return scan_plainly(w, u, keys, decay, state)


def scan_plainly(
    w: Tensor, u: Tensor, keys: Tensor, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain torch, on any device and in any precision."""
    fade = decay[..., None, None]
    states, writes = [], []
    # unbind, not an index a chunk: the backward of n indices would fill n tensors of the whole size
    for reading, new, key, faded in zip(
        w.unbind(1), u.unbind(1), keys.transpose(-1, -2).unbind(1), fade.unbind(1), strict=True
    ):
        states.append(state)
        written = torch.baddbmm(new, reading, state, alpha=-1)
        writes.append(written)
        state = torch.baddbmm(state * faded, key, written)
    return torch.stack(states, dim=1), torch.stack(writes, dim=1), state
