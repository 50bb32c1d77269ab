"""silu of a short causal convolution of each channel, in plain torch or, if supported, by a CUDA kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.nn import functional as F

from surgery.mixers.delta.short_conv_triton import ShortConv, fits_short_conv


@_disable_dynamo  # torch.compiler.disable would import the compiler immediately
def uncompiled(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Call a custom kernel outside torch.compile (graph break).

    The graph break is free when the step is replayed as a CUDA graph.
    """
    return kernel(*arguments)


def at_least_float32(x: Tensor) -> torch.dtype:
    """Return the dtype for computations on `x`: its own, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def short_conv(
    x: Float[Tensor, "b s channels"], weight: Float[Tensor, "channels 1 width"], past: int
) -> Float[Tensor, "b s-{past} channels"]:
    """Return silu of each channel's causal convolution.

    The first `past` tokens of x are context without output; earlier ones are zeros.
    """
    if fits_short_conv(x):
        out: Tensor = uncompiled(ShortConv.apply, x, weight, past)
        return out
    return short_conv_plainly(x, weight, past)


def short_conv_plainly(
    x: Float[Tensor, "b s channels"], weight: Float[Tensor, "channels 1 width"], past: int
) -> Float[Tensor, "b s-{past} channels"]:
    """Compute `short_conv` in plain torch, with outputs in float32 or better."""
    missing = weight.shape[2] - 1 - past
    y = F.conv1d(F.pad(x.transpose(1, 2), (missing, 0)), weight, groups=weight.shape[0])
    return F.silu(y.to(at_least_float32(y))).transpose(1, 2)
