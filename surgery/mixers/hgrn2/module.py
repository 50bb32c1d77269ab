"""HGRN2 as a torch module (arXiv 2404.07904; docs/papers.md, HGRN2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.context import Context
from surgery.mixers.base import MakeProjection
from surgery.mixers.delta.layer import NORM_EPS
from surgery.mixers.delta.short_conv import at_least_float32
from surgery.mixers.full.module import HeadNorm
from surgery.mixers.head_sizes import HeadSizes
from surgery.ops.decaying_attention import decaying_attention
from surgery.projections.siblings import project


class HGRN2(nn.Module):
    """W_o(RMSNorm(state that forgets by f = b + (1 - b) sigmoid(W_k x), with keys 1 - f and queries silu)).

    Parameters: projections q k v o, `k` being the map to the forget gates; `norm` over all values. Cached for
    decoding: the state (b, heads, key, value) in float32 or better.

    Args:
        sizes: of the layer.
        projection: builds the projection of a name.
        norm_eps: epsilon of the norm; 0 is replaced, since padding reads an empty state.
        lower_bound: b, the least value of a forget gate.
    """

    def __init__(
        self, sizes: HeadSizes, projection: MakeProjection, norm_eps: float, *, lower_bound: float
    ) -> None:
        super().__init__()
        self.sizes, self.lower_bound = sizes, lower_bound
        self.q, self.k, self.v, self.o = (projection(name) for name in "qkvo")
        self.norm = HeadNorm(sizes.heads * sizes.value, eps=norm_eps or NORM_EPS)

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the mixed tokens."""
        q, forget, v = project(x, context, self.q, self.k, self.v)
        dtype = v.dtype
        q, forget, v = (self._heads(y) for y in (q, forget, v))
        k, g = forget_gate(forget, self.lower_bound)
        real = context.new_real
        if real is not None:
            padding = ~real[:, None, :, None]
            k, g = k.masked_fill(padding, 0), g.masked_fill(padding, 0)
        y, state = decaying_attention(F.silu(q), k, v, g, *(context.state or ()))
        context.keep((state,))
        y = self.norm(y.transpose(1, 2).flatten(2))
        return project(y.to(dtype), context, self.o)[0]

    def _heads(self, x: Float[Tensor, "b t hd"]) -> Float[Tensor, "b h t d"]:
        """Split into heads, in float32 or better."""
        heads: Tensor = x.to(at_least_float32(x)).unflatten(2, (self.sizes.heads, -1)).transpose(1, 2)
        return heads


def forget_gate(
    x: Float[Tensor, "*shape"], lower_bound: float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return (1 - f, log f) of f = b + (1 - b) sigmoid(x), with neither rounded to 0 by the other."""
    kept = (1 - lower_bound) * torch.sigmoid(-x)
    return kept, torch.log1p(-kept) if lower_bound else F.logsigmoid(x)
