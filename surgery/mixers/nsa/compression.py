"""Compression of blocks of keys or values to one each, with those of earlier tokens from the cache."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.mixers.nsa.sizes import Sizes
from surgery.projections.dense.module import Dense


class Compression(nn.Module):
    """The mean of a block, plus the output of a learned MLP with a position in the block (equation 7).

    The paper's phi is the MLP, whose sizes it leaves open: here one hidden layer as wide as a head, shared by
    the heads, whose output starts at zero. Without the MLP this is the compression of
    flash-linear-attention.
    """

    def __init__(self, width: int, sizes: Sizes, *, learned: bool) -> None:
        super().__init__()
        self.sizes = sizes
        self.positions = None
        if learned:
            # a vector, since it is trained as embeddings and biases are, not as matrices are
            self.positions = nn.Parameter(torch.zeros(sizes.pooled * width))
            self.up = Dense(sizes.pooled * width, width, bias=False)
            self.down = Dense(width, width, bias=False)
            nn.init.zeros_(self.down.weight)

    def forward(self, x: Float[Tensor, "b g s d"]) -> Float[Tensor, "b g m d"]:
        """Return the compressed blocks that these tokens fill, the first one from the first token on."""
        if self.sizes.complete(x.shape[2]) == 0:
            return x[:, :, :0]
        blocks = x.unfold(2, self.sizes.pooled, self.sizes.stride).transpose(-1, -2)  # (b, g, m, pooled, d)
        mean: Tensor = blocks.mean(-2)
        if self.positions is None:
            return mean
        inner = self.up(blocks.flatten(-2) + self.positions.to(x.dtype))
        learned: Tensor = self.down(F.silu(inner)).to(x.dtype)
        return mean + learned

    def extended(
        self, old: Float[Tensor, "b g n d"] | None, x: Float[Tensor, "b g s d"], known: int
    ) -> Float[Tensor, "b g m d"]:
        """Return the compressed blocks of all tokens `x`, the first `known` of them from `old`."""
        if old is None:
            return self.forward(x)
        new = self.forward(x[:, :, known * self.sizes.stride :])
        return torch.cat((old[:, :, :known], new), dim=2)
