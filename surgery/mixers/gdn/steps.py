"""Steps of a Gated DeltaNet between its linear maps, in plain torch or, if supported, by CUDA kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.nn import functional as F

from surgery.mixers.gdn.delta_rule import STEPWISE, delta_rule
from surgery.mixers.gdn.fused import FusedDelta, fits_delta
from surgery.mixers.gdn.gated_norm_triton import GatedNorm, fits_gated_norm
from surgery.mixers.gdn.short_conv_triton import ShortConv, fits_short_conv
from surgery.mixers.gdn.sizes import UNIT_EPS, DeltaSizes


@_disable_dynamo  # torch.compiler.disable would import the compiler immediately
def _uncompiled(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Call a custom kernel outside torch.compile (graph break).

    The graph break is free when the step is replayed as a CUDA graph.
    """
    return kernel(*arguments)


def short_conv(
    x: Float[Tensor, "b s channels"], weight: Float[Tensor, "channels 1 width"], past: int
) -> Float[Tensor, "b s-{past} channels"]:
    """Return silu of each channel's causal convolution.

    The first `past` tokens of x are context without output; earlier ones are zeros.
    """
    if fits_short_conv(x):
        out: Tensor = _uncompiled(ShortConv.apply, x, weight, past)
        return out
    return short_conv_plainly(x, weight, past)


def short_conv_plainly(
    x: Float[Tensor, "b s channels"], weight: Float[Tensor, "channels 1 width"], past: int
) -> Float[Tensor, "b s-{past} channels"]:
    """Compute `short_conv` in plain torch, with outputs in float32 or better."""
    missing = weight.shape[2] - 1 - past
    y = F.conv1d(F.pad(x.transpose(1, 2), (missing, 0)), weight, groups=weight.shape[0])
    return F.silu(y.to(at_least_float32(y))).transpose(1, 2)


def mix(
    qkv: Float[Tensor, "b t channels"],
    g: Float[Tensor, "b t h"] | None,
    beta: Float[Tensor, "b t h"],
    state: Float[Tensor, "b h k v"] | None,
    sizes: DeltaSizes,
) -> tuple[Float[Tensor, "b t h v"], Float[Tensor, "b h k v"]]:
    """Return (outputs, state after the last token) of the delta rule.

    `qkv` holds the queries of all heads, then their keys, then their values. Queries and keys are normalised
    to length one and queries scaled by key^-0.5 (docs/papers.md, The layer). g and beta are as in
    `delta_rule`; they and the state are float32 or better, and so is the computation. The kernels' outputs
    have the dtype of `qkv`.
    """
    if state is None:
        shape = (qkv.shape[0], sizes.heads, sizes.key, sizes.value)
        state = torch.zeros(shape, dtype=beta.dtype, device=qkv.device)
    if qkv.shape[1] > STEPWISE and fits_delta(qkv, sizes):
        result: tuple[Tensor, Tensor] = _uncompiled(FusedDelta.apply, qkv, g, beta, state, sizes)
        return result
    return mix_plainly(qkv, g, beta, state, sizes)


def mix_plainly(
    qkv: Float[Tensor, "b t channels"],
    g: Float[Tensor, "b t h"] | None,
    beta: Float[Tensor, "b t h"],
    state: Float[Tensor, "b h k v"],
    sizes: DeltaSizes,
) -> tuple[Float[Tensor, "b t h v"], Float[Tensor, "b h k v"]]:
    """Compute `mix` in plain torch, on any device and in any precision."""
    keys = sizes.heads * sizes.key
    q, k, v = (
        part.unflatten(2, (sizes.heads, -1)).transpose(1, 2)
        for part in qkv.to(beta.dtype).split((keys, keys, sizes.heads * sizes.value), dim=2)
    )
    g = g.transpose(1, 2) if g is not None else None
    y, state = delta_rule(_unit(q) * sizes.key**-0.5, _unit(k), v, g, beta.transpose(1, 2), state)
    return y.transpose(1, 2), state


def gated_norm(
    y: Float[Tensor, "b t h v"],
    gate: Float[Tensor, "b t h*v"] | None,
    weight: Float[Tensor, " v"],
    eps: float,
) -> Float[Tensor, "b t h*v"]:
    """Return RMSNorm of each head's output, multiplied by silu of the gate if there is one."""
    if gate is not None and fits_gated_norm(y):
        out: Tensor = _uncompiled(GatedNorm.apply, y, gate, weight, eps)
        return out.flatten(2)
    return gated_norm_plainly(y, gate, weight, eps)


def gated_norm_plainly(
    y: Float[Tensor, "b t h v"],
    gate: Float[Tensor, "b t h*v"] | None,
    weight: Float[Tensor, " v"],
    eps: float,
) -> Float[Tensor, "b t h*v"]:
    """Compute `gated_norm` in plain torch, with outputs in float32 or better."""
    dtype = at_least_float32(y)
    return gated(F.rms_norm(y.to(dtype), weight.shape, weight.to(dtype), eps), gate)


def gated(y: Float[Tensor, "b t h v"], gate: Float[Tensor, "b t h*v"] | None) -> Float[Tensor, "b t h*v"]:
    """Concatenate heads and multiply them by silu of the gate if there is one, in float32 or better."""
    flat = y.flatten(2)
    return flat if gate is None else flat * F.silu(gate.to(at_least_float32(y)))


def at_least_float32(x: Tensor) -> torch.dtype:
    """Return the dtype for computations on `x`: its own, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _unit(x: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape width"]:
    return x * (x.square().sum(-1, keepdim=True) + UNIT_EPS).rsqrt()
