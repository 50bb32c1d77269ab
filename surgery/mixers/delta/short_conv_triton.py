"""silu of a short causal convolution of each channel, as Triton kernels for CUDA.

Why not the causal-conv1d package: a compiled CUDA extension for widths 2 to 4. Why not
flash-linear-attention's `causal_conv1d`: it is autotuned for each number of channels and tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surgery.ops.kernels import AVAILABLE, ceil_div, jit, tl

TOKENS, CHANNELS = 64, 64  # per program


def fits_short_conv(x: Tensor) -> bool:
    """Return whether the kernels support this input: on CUDA, in bfloat16 or float32."""
    return AVAILABLE and x.is_cuda and x.dtype in (torch.bfloat16, torch.float32)


class ShortConv(torch.autograd.Function):
    """x (b, past + t, channels), weight (channels, 1, width) -> (b, t, channels) in the dtype of x.

    The first `past` tokens (0 or more) are context without output; earlier ones are zeros. Sums are float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, past: int) -> Tensor:
        """Return silu of each channel's causal convolution."""
        x, weight = x.contiguous(), weight.contiguous()
        out = x.new_empty(x.shape[0], x.shape[1] - past, x.shape[2])
        ctx.save_for_backward(x, weight)
        ctx.past = past
        _launch(convolve, out, x, weight, out, past=past)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradients of x and weight; None for past."""
        x, weight = ctx.saved_tensors
        d_out = gradients[0].contiguous()
        d_mixed, d_x = torch.empty_like(d_out), torch.empty_like(x)
        blocks = x.shape[0] * ceil_div(d_out.shape[1], TOKENS)
        d_weight = x.new_empty(weight.shape[2], blocks, weight.shape[0], dtype=torch.float32)
        _launch(convolve_back, d_out, x, weight, d_out, d_mixed, d_weight, past=ctx.past)
        _launch(spread_back, x, d_mixed, weight, d_x, past=ctx.past)
        return d_x, d_weight.sum(1).t()[:, None].to(weight.dtype), None


def _launch(kernel: Any, over: Tensor, *tensors: Tensor, past: int) -> None:
    """Launch a program per block of tokens and channels of `over` (b, t, channels)."""
    batch, length, channels = over.shape
    weight = tensors[1]
    kernel[(ceil_div(length, TOKENS), ceil_div(channels, CHANNELS), batch)](
        *tensors, length, past, channels,
        SPAN=weight.shape[2], TOKENS=TOKENS, CHANNELS=CHANNELS, num_warps=4, num_stages=1,
    )  # fmt: skip


@jit
def _tile(length, channels, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return this program's (sequence, tokens as a column, channels as a row)."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return tl.program_id(2).to(tl.int64), token[:, None], channel[None, :]


@jit
def _mixed(x, weight, batch, token, channel, length, past, channels, SPAN: tl.constexpr):  # type: ignore[no-untyped-def]
    total = tl.zeros((token.shape[0], channel.shape[1]), tl.float32)
    for back in tl.static_range(SPAN):
        at = token + past - back
        inside = (at >= 0) & (token < length) & (channel < channels)
        seen = tl.load(x + (batch * (length + past) + at) * channels + channel, mask=inside, other=0.0)
        factor = tl.load(weight + channel * SPAN + SPAN - 1 - back, mask=channel < channels, other=0.0)
        total += seen.to(tl.float32) * factor.to(tl.float32)
    return total


@jit
def convolve(  # type: ignore[no-untyped-def]
    x, weight, out, length, past, channels,
    SPAN: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute the output of a tile of tokens and channels."""
    batch, token, channel = _tile(length, channels, TOKENS, CHANNELS)
    mixed = _mixed(x, weight, batch, token, channel, length, past, channels, SPAN)
    inside = (token < length) & (channel < channels)
    tl.store(out + (batch * length + token) * channels + channel, mixed * tl.sigmoid(mixed), mask=inside)


@jit
def convolve_back(  # type: ignore[no-untyped-def]
    x, weight, d_out, d_mixed, d_weight, length, past, channels,
    SPAN: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of silu's input, and these tokens' part of the weight's gradient."""
    batch, token, channel = _tile(length, channels, TOKENS, CHANNELS)
    mixed = _mixed(x, weight, batch, token, channel, length, past, channels, SPAN)
    inside = (token < length) & (channel < channels)
    gradient = tl.load(d_out + (batch * length + token) * channels + channel, mask=inside, other=0.0)
    gate = tl.sigmoid(mixed)
    d = gradient.to(tl.float32) * gate * (1 + mixed * (1 - gate))
    tl.store(d_mixed + (batch * length + token) * channels + channel, d, mask=inside)
    block = batch * tl.num_programs(0) + tl.program_id(0)
    blocks = tl.num_programs(2) * tl.num_programs(0)
    for back in tl.static_range(SPAN):
        at = token + past - back
        seen = tl.load(
            x + (batch * (length + past) + at) * channels + channel, mask=inside & (at >= 0), other=0.0
        )
        part = tl.sum(d * seen.to(tl.float32), 0)[None, :]
        to = d_weight + ((SPAN - 1 - back) * blocks + block) * channels + channel
        tl.store(to, part, mask=channel < channels)


@jit
def spread_back(  # type: ignore[no-untyped-def]
    d_mixed, weight, d_x, total, past, channels,
    SPAN: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of the input (`total` = past + t tokens) from all outputs that depend on it."""
    batch, token, channel = _tile(total, channels, TOKENS, CHANNELS)
    length = total - past
    result = tl.zeros((TOKENS, CHANNELS), tl.float32)
    for back in tl.static_range(SPAN):
        at = token - past + back
        inside = (at >= 0) & (at < length) & (channel < channels)
        d = tl.load(d_mixed + (batch * length + at) * channels + channel, mask=inside, other=0.0)
        factor = tl.load(weight + channel * SPAN + SPAN - 1 - back, mask=channel < channels, other=0.0)
        result += d.to(tl.float32) * factor.to(tl.float32)
    inside = (token < total) & (channel < channels)
    tl.store(d_x + (batch * total + token) * channels + channel, result, mask=inside)
