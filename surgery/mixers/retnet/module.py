"""Retention as a torch module (RetNet, arXiv 2307.08621; docs/papers.md, Retention)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from surgery.context import Context
from surgery.mixers.base import MakeProjection
from surgery.mixers.delta.layer import NORM_EPS
from surgery.mixers.delta.short_conv import at_least_float32
from surgery.mixers.gdn.steps import gated, gated_norm
from surgery.mixers.retnet.sizes import RetentionSizes
from surgery.ops.decaying_attention import decaying_attention
from surgery.ops.plain import is_plain
from surgery.ops.rotary import rotate
from surgery.projections.dense.module import Dense
from surgery.projections.siblings import project


class Retention(nn.Module):
    """W_o(RMSNorm(retention of rotated q and k, and v) * silu(W_g x)).

    Parameters: projections q k v o; `output_gate` dim -> values; `norm` (value,), shared by all heads. Cached
    for decoding: the state (b, heads, key, value) in float32 or better.
    """

    def __init__(self, sizes: RetentionSizes, projection: MakeProjection, norm_eps: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.q, self.k, self.v, self.o = (projection(name) for name in "qkvo")
        self.output_gate = Dense(sizes.dim, sizes.heads * sizes.value, bias=False) if sizes.gate else None
        # padding reads an empty state: without an epsilon its norm would be 0 / 0
        self.norm_eps = norm_eps or NORM_EPS
        self.norm = nn.RMSNorm(sizes.value, eps=self.norm_eps)

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the mixed tokens."""
        q, k, v = project(x, context, self.q, self.k, self.v)
        dtype = v.dtype
        q, k, v = (self._heads(y) for y in (q, k, v))
        cos, sin = (self._angles(table) for table in context.rotary)
        q, k = rotate(q * self.sizes.key**-0.5, (cos, sin)), rotate(k, (cos, sin))
        g = log_decays(self.sizes.heads, v)[None, :, None, None].expand(1, -1, v.shape[2], 1)
        real = context.new_real
        if real is not None:
            padding = ~real[:, None, :, None]
            k, g = k.masked_fill(padding, 0), g.masked_fill(padding, 0)
        y, state = decaying_attention(q, k, v, g, *(context.state or ()))
        context.keep((state,))
        y = y.transpose(1, 2)
        gate = self.output_gate(x) if self.output_gate is not None else None
        if is_plain(self.norm, nn.RMSNorm):
            y = gated_norm(y, gate, self.norm.weight, self.norm_eps)
        else:
            y = gated(self.norm(y), gate)
        return project(y.to(dtype), context, self.o)[0]

    def _heads(self, x: Float[Tensor, "b t hd"]) -> Float[Tensor, "b h t d"]:
        """Split into heads, in float32 or better."""
        heads: Tensor = x.to(at_least_float32(x)).unflatten(2, (self.sizes.heads, -1)).transpose(1, 2)
        return heads

    def _angles(self, table: Float[Tensor, "#b t width"]) -> Float[Tensor, "#b t key"]:
        """Return cos or sin of the angles of keys of this width, out of those of the backbone's heads."""
        sizes = self.sizes
        return table if sizes.key == sizes.rotary else table[..., angles_of(sizes, table.device)]


def log_decays(heads: int, like: Tensor) -> Float[Tensor, " h"]:
    """Return log(1 - 2^(-5 - h)) of each head h (eq. 8), with the dtype and device of `like`."""
    index = torch.arange(heads, dtype=like.dtype, device=like.device)
    return torch.log1p(-torch.exp2(-5 - index))


def angles_of(sizes: RetentionSizes, device: torch.device | None = None) -> Int[Tensor, " key"]:
    """Return for each channel of a key the channel of the backbone's heads whose rotary angle it has.

    Keys as wide as the backbone's heads have all angles, half as wide ones every second: those that RoPE has
    for that width. In general they are evenly spaced over the same range.
    """
    pairs, available = sizes.key // 2, sizes.rotary // 2
    first = torch.arange(pairs, device=device) * available // pairs
    return torch.cat((first, first + available))
