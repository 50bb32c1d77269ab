"""Rotary embedding as a Triton kernel for CUDA that reads and writes every channel once.

Why not Liger's `LigerRopeFunction`: it rotates queries and keys together, in place, and is compiled anew for
each batch size and number of heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.ops.kernels import AVAILABLE, block_size, ceil_div, jit_once, tl

ELEMENTS = 2048  # channel pairs per program


def fits_heads(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Return whether the kernel supports these: on CUDA, known dtypes, tables for all channels of a head."""
    fits_dtype = x.dtype in (torch.bfloat16, torch.float32) and cos.dtype == sin.dtype == torch.float32
    whole = x.ndim == 4 and x.shape[3] % 2 == 0 and cos.shape[2] == x.shape[3] and x.numel() > 0
    return AVAILABLE and fits_dtype and whole and x.is_cuda and cos.is_cuda and cos.stride() == sin.stride()


def rotate_fused(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """Rotate x (b, heads, t, h) by angles whose cos and sin are (b or 1, t, h), with equal halves.

    `back`: rotate in the opposite direction. The result's memory layout is (b, t, heads, h).
    """
    batch, heads, length, size = x.shape
    if x.stride(3) != 1:
        x = x.contiguous()
    y = x.new_empty(batch, length, heads, size).transpose(1, 2)
    wide = block_size(heads * size // 2)
    tall = max(1, ELEMENTS // wide)
    write_rotated[(ceil_div(batch * length, tall),)](
        x, cos, sin, y, batch * length, length, heads * (size // 2), -1.0 if back else 1.0,
        x.stride(0), x.stride(1), x.stride(2), y.stride(0), y.stride(2),
        cos.stride(0) if cos.shape[0] > 1 else 0, cos.stride(1),
        HALF=size // 2, TALL=tall, WIDE=wide, num_warps=4, num_stages=1,
    )  # fmt: skip
    return y


@jit_once("rows", "length")
def write_rotated(  # type: ignore[no-untyped-def]
    x, cos, sin, y, rows, length, pairs, sign, x_batch, x_head, x_token, y_batch, y_token, table_batch,
    table_token, HALF: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Rotate all heads of a tile of tokens."""
    row = tl.program_id(0).to(tl.int64) * TALL + tl.arange(0, TALL)
    batch, token = (row // length)[:, None], (row % length)[:, None]
    pair = tl.arange(0, WIDE)[None, :]
    head, channel = pair // HALF, pair % HALF
    inside = (row < rows)[:, None] & (pair < pairs)
    at = x + batch * x_batch + head * x_head + token * x_token + channel
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    angle = batch * table_batch + token * table_token + channel
    c = tl.load(cos + angle, mask=inside, other=0.0)
    s = tl.load(sin + angle, mask=inside, other=0.0) * sign
    at = y + batch * y_batch + token * y_token + head * (2 * HALF) + channel
    tl.store(at, first * c - second * s, mask=inside)
    tl.store(at + HALF, second * c + first * s, mask=inside)
