"""Steps of a Gated DeltaNet between its linear maps, in plain torch or, if supported, by CUDA kernels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from surgery.mixers.delta.recurrence import STEPWISE, by_heads, empty_state
from surgery.mixers.delta.short_conv import at_least_float32, uncompiled
from surgery.mixers.gdn.delta_rule import delta_rule
from surgery.mixers.gdn.fused import FusedDelta, fits_delta
from surgery.mixers.gdn.gated_norm_triton import GatedNorm, fits_gated_norm
from surgery.mixers.gdn.sizes import DeltaSizes


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
        state = empty_state(qkv, beta.dtype, sizes)
    if qkv.shape[1] > STEPWISE and fits_delta(qkv, sizes):
        result: tuple[Tensor, Tensor] = uncompiled(FusedDelta.apply, qkv, g, beta, state, sizes)
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
    return by_heads(qkv, g, beta, state, sizes, delta_rule)


def gated_norm(
    y: Float[Tensor, "b t h v"],
    gate: Float[Tensor, "b t h*v"] | None,
    weight: Float[Tensor, " v"],
    eps: float,
) -> Float[Tensor, "b t h*v"]:
    """Return RMSNorm of each head's output, multiplied by silu of the gate if there is one."""
    if gate is not None and fits_gated_norm(y):
        out: Tensor = uncompiled(GatedNorm.apply, y, gate, weight, eps)
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
