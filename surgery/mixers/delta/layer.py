"""The layer around the delta rule: projections, short convolution, rates, normed and gated output."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from surgery.context import Context
from surgery.mixers.base import MakeProjection
from surgery.mixers.delta.short_conv import at_least_float32, causal_conv
from surgery.mixers.delta.sizes import StateSizes
from surgery.projections.dense.module import Dense
from surgery.projections.siblings import project

NORM_EPS = 1e-6  # of the output's norm if the backbone's is 0


class DeltaLayer(nn.Module):
    """W_o(gated(RMSNorm(delta rule over short convolutions of q, k, v))).

    Parameters: projections q k v o; `conv` (channels, 1, width) over concatenated q, k and v; `beta` dim ->
    heads; `norm` (value,), shared by all heads; and by subclass `decay` with `A_log` (heads,) and `dt_bias`,
    and `output_gate` dim -> values. Cached for decoding: the last inputs of the convolution
    (b, channels, width - 1), and the state (b, heads, key, value) in float32 or better.
    """

    lowest_rate = 0.0  # of the uniform distribution that exp(A_log) starts from

    def __init__(self, sizes: StateSizes, projection: MakeProjection, norm_eps: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.q, self.k, self.v, self.o = (projection(name) for name in "qkvo")
        self.conv = nn.Parameter(torch.empty(sizes.channels, 1, sizes.conv)) if sizes.conv else None
        self.beta = Dense(sizes.dim, sizes.heads, bias=False)
        self.decay = self.decay_map() if sizes.decay else None
        self.A_log = nn.Parameter(torch.empty(sizes.heads)) if sizes.decay else None
        self.dt_bias = nn.Parameter(torch.empty(sizes.rates - sizes.heads)) if sizes.decay else None
        self.output_gate = self.gate_map() if sizes.gate else None
        # padding reads an empty state: without an epsilon its norm would be 0 / 0
        self.norm_eps = norm_eps or NORM_EPS
        self.norm = nn.RMSNorm(sizes.value, eps=self.norm_eps)
        self.reset_parameters()

    @abstractmethod
    def decay_map(self) -> nn.Module:
        """Return a new map from the input to the decay."""

    @abstractmethod
    def gate_map(self) -> nn.Module:
        """Return a new map from the input to the output gate."""

    @abstractmethod
    def log_decay(self, x: Float[Tensor, "b t d"], dtype: torch.dtype) -> Float[Tensor, "b t rates"] | None:
        """Return the logarithm of each token's decay, at most 0; None: the state doesn't fade."""

    @abstractmethod
    def mix(
        self,
        qkv: Float[Tensor, "b t channels"],
        g: Float[Tensor, "b t rates"] | None,
        beta: Float[Tensor, "b t h"],
        state: Float[Tensor, "b h k v"] | None,
    ) -> tuple[Float[Tensor, "b t h v"], Float[Tensor, "b h k v"]]:
        """Return (outputs, state after the last token); `state` None: nothing before the first one."""

    @abstractmethod
    def finish(
        self, y: Float[Tensor, "b t h v"], gate: Float[Tensor, "b t h*v"] | None
    ) -> Float[Tensor, "b t h*v"]:
        """Return the heads' outputs, normed and gated."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise time steps log-uniformly in 0.001 to 0.1 and rates uniformly up to 16.

        Both as in the papers' code; the convolution has torch's default. The model initialises the linear
        maps.
        """
        if self.conv is not None:
            bound = self.sizes.conv**-0.5
            nn.init.uniform_(self.conv, -bound, bound)
        if self.A_log is not None and self.dt_bias is not None:
            self.A_log.uniform_(self.lowest_rate, 16).log_()
            step = self.dt_bias.uniform_(math.log(1e-3), math.log(0.1)).exp_().clamp_(min=1e-4)
            step.add_(step.neg().expm1_().neg_().log_())  # the inverse of softplus

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the mixed tokens."""
        real = context.new_real
        past = context.state
        qkv = torch.cat(project(x, context, self.q, self.k, self.v), dim=-1)
        dtype, accumulation_dtype = qkv.dtype, at_least_float32(qkv)
        qkv, columns = causal_conv(qkv, self.conv, context, past[0] if past is not None else None)
        g, beta = self._rates(x, real, accumulation_dtype)
        y, state = self.mix(qkv, g, beta, past[1] if past is not None else None)
        context.keep((columns, state))
        gate = self.output_gate(x) if self.output_gate is not None else None
        y = self.finish(y, gate)
        return project(y.to(dtype), context, self.o)[0]

    def _rates(
        self, x: Float[Tensor, "b t d"], real: Bool[Tensor, "b t"] | None, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "b t rates"] | None, Float[Tensor, "b t h"]]:
        """Return (g, beta): logarithm of each token's decay, and its writing strength; both 0 at padding."""
        beta = self.beta(x).to(dtype).sigmoid()
        if self.sizes.negative_eigenvalues:
            beta = 2 * beta
        g = self.log_decay(x, dtype)
        if real is not None:
            beta = beta.masked_fill(~real[..., None], 0)
            g = g.masked_fill(~real[..., None], 0) if g is not None else None
        return g, beta
