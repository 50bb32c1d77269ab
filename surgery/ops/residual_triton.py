"""Residual sums and their RMSNorm (Zhang and Sennrich 2019, 1910.07467, eq. 4) as Triton kernels for CUDA.

A tile is a number of whole rows; a program loops over tiles and accumulates the weight's gradient.

Why not Liger's `LigerFusedAddRMSNormFunction`: it writes the norm in the dtype of the sum, float32 under
autocast, which every projection would cast again. `torch.nn.functional.rms_norm` does not add.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.ops.kernels import AVAILABLE, block_size, ceil_div, jit_once, tl

WIDEST = 8192  # channels of a row, at most
ELEMENTS = 4096  # per tile
PROGRAMS = 528  # of a backward pass, at most


def fits_stream(h: Tensor, y: Tensor | None, weight: Tensor) -> bool:
    """Return whether the kernels support these: on CUDA, in bfloat16 or float32, rows within registers."""
    dtypes = (torch.bfloat16, torch.float32)
    given = [h, weight] if y is None else [h, weight, y]
    sizes = h.numel() > 0 and h.shape[-1] <= WIDEST and (y is None or y.shape == h.shape)
    return AVAILABLE and sizes and all(tensor.is_cuda and tensor.dtype in dtypes for tensor in given)


def add_norm_fused(
    h: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (h + y, its norm in `dtype`, 1 / rms of each row in float32); without y, h itself is the sum."""
    h = h.contiguous()
    d = h.shape[-1]
    rows = h.numel() // d
    total = h if y is None else torch.empty_like(h)
    normed = torch.empty_like(h, dtype=dtype)
    scale = h.new_empty(rows, dtype=torch.float32)
    wide = block_size(d)
    tall = max(1, ELEMENTS // wide)
    write_sum_and_norm[(ceil_div(rows, tall),)](
        h, h if y is None else y.contiguous(), weight, total, normed, scale, rows, d, eps,
        ADDED=y is not None, TALL=tall, WIDE=wide, num_warps=8, num_stages=1,
    )  # fmt: skip
    return total, normed, scale


def add_norm_back_fused(
    total: Tensor, scale: Tensor, weight: Tensor, d_total: Tensor, d_normed: Tensor, added: torch.dtype | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the gradients of h, of y in the dtype `added` (None: there is no y), and of the weight."""
    d = total.shape[-1]
    rows = len(scale)
    d_h = torch.empty_like(total)
    # one tensor for both if they have the same dtype: autograd does not overwrite incoming gradients
    apart = added is not None and added != total.dtype
    d_y = torch.empty_like(total, dtype=added) if apart else d_h
    wide = block_size(d)
    tall = max(1, ELEMENTS // wide)
    programs = min(PROGRAMS, ceil_div(rows, tall))
    d_weight = total.new_empty(programs, d, dtype=torch.float32)
    write_back[(programs,)](
        total, scale, weight, d_total.contiguous(), d_normed.contiguous(), d_h, d_y, d_weight, rows, d,
        APART=apart, TALL=tall, WIDE=wide, num_warps=8, num_stages=1,
    )  # fmt: skip
    return d_h, None if added is None else d_y, d_weight.sum(0).to(weight.dtype)


@jit_once("rows")
def write_sum_and_norm(  # type: ignore[no-untyped-def]
    h, y, weight, total, normed, scale, rows, d, eps,
    ADDED: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Compute the sum and the norm of a tile of rows. ADDED: there is a y."""
    row = tl.program_id(0).to(tl.int64) * TALL + tl.arange(0, TALL)
    channel = tl.arange(0, WIDE)
    inside = (row < rows)[:, None] & (channel < d)[None, :]
    at = row[:, None] * d + channel[None, :]
    x = tl.load(h + at, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        x += tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
        x = x.to(total.dtype.element_ty)
        tl.store(total + at, x, mask=inside)
        x = x.to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1) / d + eps)
    tl.store(scale + row, inverse, mask=row < rows)
    gain = tl.load(weight + channel, mask=channel < d, other=0.0).to(tl.float32)
    tl.store(normed + at, x * inverse[:, None] * gain[None, :], mask=inside)


@jit_once("rows")
def write_back(  # type: ignore[no-untyped-def]
    total, scale, weight, d_total, d_normed, d_h, d_y, d_weight, rows, d,
    APART: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of some tiles of rows, and their part of the weight's gradient.

    APART: y has another dtype than h, and so a gradient of its own.
    """
    channel = tl.arange(0, WIDE)
    gain = tl.load(weight + channel, mask=channel < d, other=0.0).to(tl.float32)
    d_gain = tl.zeros((WIDE,), tl.float32)
    for first in range(tl.program_id(0) * TALL, rows, tl.num_programs(0) * TALL):
        row = first + tl.arange(0, TALL).to(tl.int64)
        inside = (row < rows)[:, None] & (channel < d)[None, :]
        at = row[:, None] * d + channel[None, :]
        inverse = tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
        x = tl.load(total + at, mask=inside, other=0.0).to(tl.float32) * inverse
        g = tl.load(d_normed + at, mask=inside, other=0.0).to(tl.float32)
        d_gain += tl.sum(g * x, 0)
        g = g * gain[None, :]
        g = (g - x * (tl.sum(g * x, 1) / d)[:, None]) * inverse
        g += tl.load(d_total + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(d_h + at, g, mask=inside)
        if APART:
            tl.store(d_y + at, g, mask=inside)
    tl.store(d_weight + tl.program_id(0) * d + channel, d_gain, mask=channel < d)
