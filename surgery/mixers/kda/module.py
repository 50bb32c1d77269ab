"""Kimi Delta Attention as a torch module (arXiv 2510.26692; docs/papers.md, Kimi Delta Attention)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.mixers.delta.layer import DeltaLayer
from surgery.mixers.delta.recurrence import by_heads, empty_state
from surgery.mixers.delta.short_conv import at_least_float32
from surgery.mixers.kda.channel_rule import channel_rule
from surgery.mixers.kda.sizes import KimiSizes
from surgery.ops.plain import is_plain
from surgery.projections.low_rank.module import LowRank


class KimiDeltaAttention(DeltaLayer):
    """W_o(RMSNorm(delta rule over short convolutions of q, k, v) * sigmoid(W_up W_down x)).

    Parameters beside those of every `DeltaLayer`: `decay` dim -> keys of rank `sizes.rank`, with `A_log`
    (heads,) and `dt_bias` (keys,); `output_gate` dim -> values of the same rank.
    """

    sizes: KimiSizes
    lowest_rate = 1.0

    def decay_map(self) -> nn.Module:
        """Return a new map from the input to the decay of each key channel."""
        sizes = self.sizes
        return LowRank(sizes.dim, sizes.heads * sizes.key, rank=sizes.rank)

    def gate_map(self) -> nn.Module:
        """Return a new map from the input to the output gate of each value channel."""
        sizes = self.sizes
        return LowRank(sizes.dim, sizes.heads * sizes.value, rank=sizes.rank)

    def log_decay(self, x: Float[Tensor, "b t d"], dtype: torch.dtype) -> Float[Tensor, "b t keys"]:
        """Return the logarithm of each token's decay of every key channel, at most 0."""
        assert self.decay is not None
        assert self.A_log is not None
        assert self.dt_bias is not None
        step = F.softplus(self.decay(x).to(dtype) + self.dt_bias.to(dtype))
        rate = self.A_log.to(dtype).exp()[:, None]
        g: Tensor = -(rate * step.unflatten(2, (self.sizes.heads, -1)))
        return g.flatten(2)

    def mix(
        self,
        qkv: Float[Tensor, "b t channels"],
        g: Float[Tensor, "b t keys"] | None,
        beta: Float[Tensor, "b t h"],
        state: Float[Tensor, "b h k v"] | None,
    ) -> tuple[Float[Tensor, "b t h v"], Float[Tensor, "b h k v"]]:
        """Return (outputs, state after the last token); `state` None: nothing before the first one."""
        assert g is not None
        g = g.unflatten(2, (self.sizes.heads, -1))
        if state is None:
            state = empty_state(qkv, beta.dtype, self.sizes)
        return by_heads(qkv, g, beta, state, self.sizes, channel_rule)

    def finish(
        self, y: Float[Tensor, "b t h v"], gate: Float[Tensor, "b t h*v"] | None
    ) -> Float[Tensor, "b t h*v"]:
        """Return the heads' outputs, normed and multiplied by sigmoid of the gate."""
        dtype = at_least_float32(y)
        if is_plain(self.norm, nn.RMSNorm):
            y = F.rms_norm(y.to(dtype), self.norm.weight.shape, self.norm.weight.to(dtype), self.norm_eps)
        else:
            y = self.norm(y.to(dtype))
        normed = y.flatten(2)
        return normed if gate is None else normed * gate.to(dtype).sigmoid()
