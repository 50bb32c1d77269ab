"""Mamba-2 as a torch module (arXiv 2405.21060; docs/papers.md, Mamba-2)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.context import Context
from surgery.mixers.base import MakeProjection
from surgery.mixers.delta.layer import NORM_EPS
from surgery.mixers.delta.short_conv import at_least_float32, causal_conv
from surgery.mixers.mamba2.sizes import MambaSizes
from surgery.ops.decaying_attention import decaying_attention
from surgery.projections.dense.module import Dense
from surgery.projections.siblings import project


class GroupNorm(nn.Module):
    """RMSNorm of each group of channels, in its input's dtype, with a weight per channel."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """Return the normed channels."""
        groups = x.unflatten(-1, (self.groups, -1))
        normed = F.rms_norm(groups, groups.shape[-1:], eps=self.eps).flatten(-2)
        return normed * self.weight.to(x.dtype)


class Mamba2(nn.Module):
    """W_o(RMSNorm((state space over short convolutions of q, k, v) * silu(W_g x))).

    Parameters: projections q k v o (C, B, x and the output in the paper); `conv` (channels, 1, width) and
    `conv_bias` over concatenated q, k and v; `step` dim -> heads with `dt_bias` and `A_log` (heads,); `D`
    (heads,); `output_gate` dim -> values; `norm` over all values. Cached for decoding: the last inputs of the
    convolution (b, channels, width - 1), and the state (b, heads, key, value) in float32 or better.
    """

    def __init__(self, sizes: MambaSizes, projection: MakeProjection, norm_eps: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.q, self.k, self.v, self.o = (projection(name) for name in "qkvo")
        self.conv = nn.Parameter(torch.empty(sizes.channels, 1, sizes.conv)) if sizes.conv else None
        self.conv_bias = nn.Parameter(torch.empty(sizes.channels)) if sizes.conv else None
        self.step = Dense(sizes.dim, sizes.heads, bias=False)
        self.A_log, self.dt_bias, self.D = (nn.Parameter(torch.empty(sizes.heads)) for _ in range(3))
        self.output_gate = Dense(sizes.dim, sizes.inner, bias=False)
        # padding reads an empty state: without an epsilon its norm would be 0 / 0
        self.norm = GroupNorm(sizes.inner, sizes.groups, norm_eps or NORM_EPS)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise time steps log-uniformly in 0.001 to 0.1, rates uniformly in 1 to 16, and D to 1.

        As in the paper's code; the convolution has torch's default. The model initialises the linear maps.
        """
        if self.conv is not None and self.conv_bias is not None:
            bound = self.sizes.conv**-0.5
            nn.init.uniform_(self.conv, -bound, bound)
            nn.init.uniform_(self.conv_bias, -bound, bound)
        self.A_log.uniform_(1, 16).log_()
        self.D.fill_(1)
        step = self.dt_bias.uniform_(math.log(1e-3), math.log(0.1)).exp_().clamp_(min=1e-4)
        step.add_(step.neg().expm1_().neg_().log_())  # the inverse of softplus

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the mixed tokens."""
        sizes = self.sizes
        past = context.state
        qkv = torch.cat(project(x, context, self.q, self.k, self.v), dim=-1)
        dtype, accumulation_dtype = qkv.dtype, at_least_float32(qkv)
        qkv, columns = causal_conv(
            qkv, self.conv, context, past[0] if past is not None else None, bias=self.conv_bias
        )
        keys = sizes.groups * sizes.key
        q, k, v = qkv.to(accumulation_dtype).split((keys, keys, sizes.inner), dim=2)
        q, k = (self._per_head(y) for y in (q, k))
        v = v.unflatten(2, (sizes.heads, -1)).transpose(1, 2)
        step = F.softplus(self.step(x).to(accumulation_dtype) + self.dt_bias.to(accumulation_dtype))
        step = step.transpose(1, 2)[..., None]  # (b, h, t, 1)
        g = -self.A_log.to(accumulation_dtype).exp()[:, None, None] * step
        real = context.new_real
        if real is not None:
            padding = ~real[:, None, :, None]
            k, g = k.masked_fill(padding, 0), g.masked_fill(padding, 0)
        y, state = decaying_attention(q, k, v * step, g, past[1] if past is not None else None)
        context.keep((columns, state))
        y = y + v * self.D.to(accumulation_dtype)[:, None, None]
        y = y.transpose(1, 2).flatten(2) * F.silu(self.output_gate(x).to(accumulation_dtype))
        return project(self.norm(y).to(dtype), context, self.o)[0]

    def _per_head(self, x: Float[Tensor, "b t keys"]) -> Float[Tensor, "b _ t key"]:
        """Split into groups, repeated for their heads; a single group stays one, which all heads share."""
        sizes = self.sizes
        groups: Tensor = x.unflatten(2, (sizes.groups, -1)).transpose(1, 2)
        return groups if sizes.groups == 1 else groups.repeat_interleave(sizes.heads // sizes.groups, dim=1)
