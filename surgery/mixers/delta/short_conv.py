"""silu of a short causal convolution of each channel, in plain torch or, if supported, by a CUDA kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.nn import functional as F

from surgery.context import Context
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


def causal_conv(
    x: Float[Tensor, "b t channels"],
    weight: Float[Tensor, "channels 1 width"] | None,
    context: Context,
    past: Float[Tensor, "b channels before"] | None,
    bias: Float[Tensor, " channels"] | None = None,
) -> tuple[Float[Tensor, "b t channels"], Float[Tensor, "b channels kept"]]:
    """Return silu of each channel's convolution with the past, and the inputs needed by the next token.

    Args:
        x: new tokens; padding among them counts as zeros.
        weight: of the convolution, whose last tap is the token itself; None: there is only silu.
        context: of the forward pass.
        past: the inputs that were needed by these tokens; None: they are the first ones.
        bias: added to the convolution.
    """
    real = context.new_real
    if real is not None:
        x = x.masked_fill(~real[..., None], 0)
    if weight is None:
        return F.silu(x.to(at_least_float32(x))), x.new_empty(x.shape[0], x.shape[2], 0)
    before = weight.shape[2] - 1
    if past is not None:
        x = context.append(past.transpose(1, 2), x, dim=1)
    # padded with zeros if there are fewer tokens than the next one needs
    last = F.pad(x[:, -before:], (0, 0, max(0, before - x.shape[1]), 0))
    y = short_conv(x, weight, before if past is not None else 0, bias)
    return y, last.transpose(1, 2).contiguous()


def short_conv(
    x: Float[Tensor, "b s channels"],
    weight: Float[Tensor, "channels 1 width"],
    past: int,
    bias: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "b s-{past} channels"]:
    """Return silu of each channel's causal convolution.

    The first `past` tokens of x are context without output; earlier ones are zeros. The kernel has no bias.
    """
    if bias is None and fits_short_conv(x):
        out: Tensor = uncompiled(ShortConv.apply, x, weight, past)
        return out
    return short_conv_plainly(x, weight, past, bias)


def short_conv_plainly(
    x: Float[Tensor, "b s channels"],
    weight: Float[Tensor, "channels 1 width"],
    past: int,
    bias: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "b s-{past} channels"]:
    """Compute `short_conv` in plain torch, with outputs in float32 or better."""
    missing = weight.shape[2] - 1 - past
    y = F.conv1d(F.pad(x.transpose(1, 2), (missing, 0)), weight, bias, groups=weight.shape[0])
    return F.silu(y.to(at_least_float32(y))).transpose(1, 2)
