"""The steps of a Gated DeltaNet between its linear maps: in plain torch, and where they are chosen instead,
as kernels for CUDA."""

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


@_disable_dynamo  # torch.compiler.disable would import the compiler here and now
def _uncompiled(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Kernels of our own, at whose calls a compiled block is cut: a recorded step does not feel the cuts."""
    return kernel(*arguments)


def short_conv(
    x: Float[Tensor, "b past+t channels"], weight: Float[Tensor, "channels 1 width"], past: int
) -> Float[Tensor, "b t channels"]:
    """silu of each channel's causal convolution; before the `past` tokens that go first are zeros."""
    if fits_short_conv(x):
        out: Tensor = _uncompiled(ShortConv.apply, x, weight, past)
        return out
    return short_conv_plainly(x, weight, past)


def short_conv_plainly(x: Tensor, weight: Tensor, past: int) -> Tensor:
    """The same in plain torch. The outputs are float32 or better."""
    missing = weight.shape[2] - 1 - past
    mixed = F.conv1d(F.pad(x.transpose(1, 2), (missing, 0)), weight, groups=weight.shape[0])
    return F.silu(mixed.to(at_least_float32(mixed))).transpose(1, 2)


def mix(
    qkv: Float[Tensor, "b t channels"],
    g: Float[Tensor, "b t h"] | None,
    beta: Float[Tensor, "b t h"],
    state: Float[Tensor, "b h k v"] | None,
    sizes: DeltaSizes,
) -> tuple[Float[Tensor, "b t h v"], Float[Tensor, "b h k v"]]:
    """(what the queries read, the state after the last token).

    `qkv` holds the queries of all heads, then their keys, then their values. Queries and keys are brought to
    length one and queries scaled by key^-0.5 (docs/papers.md, The layer). g and beta as in `delta_rule`;
    they and the state are float32 or better, and so is the work. The kernels' outputs have the dtype of
    `qkv`.
    """
    if state is None:
        shape = (qkv.shape[0], sizes.heads, sizes.key, sizes.value)
        state = torch.zeros(shape, dtype=beta.dtype, device=qkv.device)
    if qkv.shape[1] > STEPWISE and fits_delta(qkv, sizes):
        found: tuple[Tensor, Tensor] = _uncompiled(FusedDelta.apply, qkv, g, beta, state, sizes)
        return found
    return mix_plainly(qkv, g, beta, state, sizes)


def mix_plainly(
    qkv: Tensor, g: Tensor | None, beta: Tensor, state: Tensor, sizes: DeltaSizes
) -> tuple[Tensor, Tensor]:
    """The same in plain torch, on any device and in any precision."""
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
    """RMSNorm of each head's output, times silu of the gate where there is one."""
    if gate is not None and fits_gated_norm(y):
        out: Tensor = _uncompiled(GatedNorm.apply, y, gate, weight, eps)
        return out.flatten(2)
    return gated_norm_plainly(y, gate, weight, eps)


def gated_norm_plainly(y: Tensor, gate: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """The same in plain torch. The outputs are float32 or better."""
    exact = at_least_float32(y)
    return gated(F.rms_norm(y.to(exact), weight.shape, weight.to(exact), eps), gate)


def gated(y: Float[Tensor, "b t h v"], gate: Float[Tensor, "b t h*v"] | None) -> Float[Tensor, "b t h*v"]:
    """Heads side by side, times silu of the gate where there is one, in float32 or better."""
    flat = y.flatten(2)
    return flat if gate is None else flat * F.silu(gate.to(at_least_float32(y)))


def at_least_float32(x: Tensor) -> torch.dtype:
    """What to compute in: float32, or what `x` has where that is finer."""
    return torch.promote_types(x.dtype, torch.float32)


def _unit(x: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape width"]:
    return x * (x.square().sum(-1, keepdim=True) + UNIT_EPS).rsqrt()
