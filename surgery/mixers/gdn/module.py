"""Gated DeltaNet as a torch module (arXiv 2412.06464; docs/papers.md, The layer)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.mixers.delta.layer import DeltaLayer
from surgery.mixers.delta.short_conv import at_least_float32
from surgery.mixers.gdn.sizes import DeltaSizes
from surgery.mixers.gdn.steps import gated, gated_norm, mix
from surgery.ops.plain import is_plain
from surgery.projections.dense.module import Dense


class GatedDeltaNet(DeltaLayer):
    """W_o(RMSNorm(delta rule over short convolutions of q, k, v) * silu(W_g x)).

    Parameters beside those of every `DeltaLayer`: `decay` dim -> heads, with `A_log` and `dt_bias` (heads,);
    `output_gate` dim -> values.
    """

    sizes: DeltaSizes
    lowest_rate = 0.01  # 0 has no logarithm

    def decay_map(self) -> nn.Module:
        """Return a new map from the input to the decay of each head."""
        return Dense(self.sizes.dim, self.sizes.heads, bias=False)

    def gate_map(self) -> nn.Module:
        """Return a new map from the input to the output gate of each value channel."""
        return Dense(self.sizes.dim, self.sizes.heads * self.sizes.value, bias=False)

    def log_decay(self, x: Float[Tensor, "b t d"], dtype: torch.dtype) -> Float[Tensor, "b t h"] | None:
        """Return the logarithm of each token's decay, at most 0; None: the state doesn't fade."""
        if self.decay is None:
            return None
        assert self.A_log is not None
        assert self.dt_bias is not None
        step = F.softplus(self.decay(x).to(dtype) + self.dt_bias.to(dtype))
        return -self.A_log.to(dtype).exp() * step

    def mix(
        self,
        qkv: Float[Tensor, "b t channels"],
        g: Float[Tensor, "b t h"] | None,
        beta: Float[Tensor, "b t h"],
        state: Float[Tensor, "b h k v"] | None,
    ) -> tuple[Float[Tensor, "b t h v"], Float[Tensor, "b h k v"]]:
        """Return (outputs, state after the last token); `state` None: nothing before the first one."""
        return mix(qkv, g, beta, state, self.sizes)

    def finish(
        self, y: Float[Tensor, "b t h v"], gate: Float[Tensor, "b t h*v"] | None
    ) -> Float[Tensor, "b t h*v"]:
        """Return the heads' outputs, normed and multiplied by silu of the gate."""
        if is_plain(self.norm, nn.RMSNorm):
            return gated_norm(y, gate, self.norm.weight, self.norm_eps)
        return gated(self.norm(y.to(at_least_float32(y))), gate)
