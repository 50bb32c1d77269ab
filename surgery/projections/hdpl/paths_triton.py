"""Both paths of a projection in one Triton kernel: y = BlockDiag(x) + D h (+ b), each y written once."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from surgery.kernels import AVAILABLE, block_size, ceil_div, jit, tl

TOKENS = 128  # a program's
INNER = 64  # of a step of the products
SHARED_BYTES = 160 * 1024  # that the kernels' tiles may take: an A100 has as many, smaller devices have not


@cache
def roomy(device: torch.device) -> bool:
    """Whether a block of threads can have the shared memory that the products' tiles want."""
    most = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return int(most) >= SHARED_BYTES


def fits_outputs(x: Tensor) -> bool:
    """Whether the kernel can take this input. In float32 the libraries' products are the faster ones."""
    return AVAILABLE and x.is_cuda and x.dtype == torch.bfloat16 and len(x) > 0 and roomy(x.device)


def output_fused(x: Tensor, h: Tensor, blocks: Tensor, decoder: Tensor, bias: Tensor | None) -> Tensor:
    """`output` of `paths.py`."""
    x = x.contiguous()
    assert h.stride(1) == 1, "columns of h side by side"
    n, rows, columns = blocks.shape
    rank = h.shape[1]
    y = x.new_empty(len(x), n * rows)
    block = block_size(rows, 128)
    grid = (ceil_div(rows, block) * n, ceil_div(len(x), TOKENS))
    write_output[grid](
        x, h, blocks, decoder, bias if bias is not None else y, y,
        len(x), n, rows, h.stride(0),
        COLUMNS=columns,
        RANK=rank,
        TOKENS=TOKENS,
        ROWS=block,
        INNER=min(INNER, block_size(max(columns, rank))),
        BIAS=bias is not None,
        num_warps=8 if block == 128 else 4,
        num_stages=3,
    )  # fmt: skip
    return y


@jit
def _product(total, left, right, real, is_row, DEPTH: tl.constexpr, INNER: tl.constexpr):  # type: ignore[no-untyped-def]
    """total + left right^T over the DEPTH elements that lie side by side from each pointer on."""
    for first in range(0, DEPTH, INNER):
        inner = first + tl.arange(0, INNER)
        a = tl.load(left[:, None] + inner[None, :], mask=real[:, None] & (inner < DEPTH)[None, :], other=0.0)
        b = tl.load(
            right[None, :] + inner[:, None], mask=is_row[None, :] & (inner < DEPTH)[:, None], other=0.0
        )
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@jit
def write_output(  # type: ignore[no-untyped-def]
    x, h, blocks, decoder, bias, y, tokens, n, rows, h_stride,
    COLUMNS: tl.constexpr, RANK: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Some rows of one block for some tokens. Neighbouring programs share the tokens, so that these are read
    from memory once; weights stay in the cache."""
    parts = tl.num_programs(0) // n
    block = tl.program_id(0) // parts
    row = tl.program_id(0) % parts * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    real, is_row = token < tokens, row < rows
    to = block * rows + row
    total = tl.zeros((TOKENS, ROWS), tl.float32)
    from_x = x + token * (n * COLUMNS) + block * COLUMNS
    total = _product(total, from_x, blocks + to * COLUMNS, real, is_row, COLUMNS, INNER)
    total = _product(total, h + token * h_stride, decoder + to * RANK, real, is_row, RANK, INNER)
    if BIAS:
        total += tl.load(bias + to, mask=is_row, other=0.0).to(tl.float32)[None, :]
    at = y + token[:, None] * (n * rows) + to[None, :]
    tl.store(at, total, mask=real[:, None] & is_row[None, :])
