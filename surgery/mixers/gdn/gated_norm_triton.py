"""RMSNorm of each head's output, multiplied by silu of its gate, as Triton kernels for CUDA.

Why not flash-linear-attention's `FusedRMSNormGated`: it is autotuned for each width and number of tokens,
tens of launch configurations at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surgery.ops.kernels import AVAILABLE, block_size, ceil_div, jit, tl

ELEMENTS = 4096  # per program
WIDEST = 2048  # channels of a head, at most


def fits_gated_norm(y: Tensor) -> bool:
    """Return whether the kernels support this input: on CUDA, bfloat16 or float32, a row within registers."""
    fits_dtype = y.is_cuda and y.dtype in (torch.bfloat16, torch.float32)
    return AVAILABLE and fits_dtype and y.shape[-1] <= WIDEST


class GatedNorm(torch.autograd.Function):
    """y (..., width), gate with as many elements, weight (width,) -> (..., width) in the gate's dtype."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return RMSNorm(y) * weight * silu(gate), with the shape of `y`."""
        y, gate = y.contiguous(), gate.contiguous()
        out = gate.new_empty(y.shape)
        ctx.save_for_backward(y, gate, weight)
        ctx.eps = eps
        _launch(normalise, y, gate, weight, out, eps=eps)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradients of y, gate and weight; None for eps."""
        y, gate, weight = ctx.saved_tensors
        d_out = gradients[0].contiguous()
        d_y, d_gate = torch.empty_like(y), torch.empty_like(gate)
        d_weight = y.new_empty(_programs(y), y.shape[-1], dtype=torch.float32)
        _launch(normalise_back, y, gate, weight, d_out, d_y, d_gate, d_weight, eps=ctx.eps)
        return d_y, d_gate, d_weight.sum(0).to(weight.dtype), None


def _rows(width: int) -> int:
    return ELEMENTS // block_size(width)


def _programs(y: Tensor) -> int:
    return ceil_div(y.numel() // y.shape[-1], _rows(y.shape[-1]))


def _launch(kernel: Any, y: Tensor, *tensors: Tensor, eps: float) -> None:
    width = y.shape[-1]
    kernel[(_programs(y),)](
        y, *tensors, y.numel() // width, width, eps,
        ROWS=_rows(width), WIDTH=block_size(width), num_warps=4, num_stages=1,
    )  # fmt: skip


@jit
def _tile(rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return this program's (memory offsets, mask of those in range, channels)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    return (
        row[:, None] * width + channel[None, :],
        (row < rows)[:, None] & (channel < width)[None, :],
        channel,
    )


@jit
def normalise(y, gate, weight, out, rows, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute the output of a tile of rows."""
    at, inside, channel = _tile(rows, width, ROWS, WIDTH)
    x = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(weight + channel, mask=channel < width, other=0.0).to(tl.float32)
    x = x / tl.sqrt(tl.sum(x * x, 1) / width + eps)[:, None]
    tl.store(out + at, x * factor[None, :] * z * tl.sigmoid(z), mask=inside)


@jit
def normalise_back(  # type: ignore[no-untyped-def]
    y, gate, weight, d_out, d_y, d_gate, d_weight, rows, width, eps,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a tile of rows, and its part of the weight's gradient."""
    at, inside, channel = _tile(rows, width, ROWS, WIDTH)
    x = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(d_out + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(weight + channel, mask=channel < width, other=0.0).to(tl.float32)[None, :]
    inverse = 1 / tl.sqrt(tl.sum(x * x, 1) / width + eps)[:, None]
    x *= inverse
    sigmoid = tl.sigmoid(z)
    tl.store(d_gate + at, d * x * factor * sigmoid * (1 + z * (1 - sigmoid)), mask=inside)
    d *= z * sigmoid
    to = d_weight + tl.program_id(0) * width + channel
    tl.store(to, tl.sum(d * x, 0), mask=channel < width)
    d *= factor
    tl.store(d_y + at, (d - x * (tl.sum(d * x, 1) / width)[:, None]) * inverse, mask=inside)
