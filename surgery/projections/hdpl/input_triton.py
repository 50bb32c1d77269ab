"""The gradient of the input of HDPL siblings in one Triton kernel: through all their blocks and encoders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from surgery.kernels import ceil_div, jit, tl
from surgery.projections.hdpl.tiles import MOST, TILE, filled, inner, place, tile_of, tiling

WIDEST = 256  # columns of a block: of wider ones the libraries' products are the faster ones


def fits_input(blocks: Sequence[Tensor]) -> bool:
    """Whether the kernel can take these siblings, and is worth it."""
    return len(blocks) <= MOST and len({len(b) for b in blocks}) == 1 and blocks[0].shape[2] <= WIDEST


def input_gradient_fused(
    d_ys: Sequence[Tensor], blocks: Sequence[Tensor], d_latents: Tensor, encoders: Tensor
) -> Tensor:
    """`input_gradient` of `paths.py`."""
    n, _, columns = blocks[0].shape
    d_x = d_latents.new_empty(len(d_latents), n * columns)
    rows = [block.shape[1] for block in blocks] + [0] * (MOST - len(blocks))
    span = max(1, min(n, TILE // columns))
    tile, parts = tiling(n, columns, span)
    write_input_gradient[(parts, ceil_div(len(d_x), TILE))](
        *filled(d_ys), *filled(blocks), d_latents, encoders, d_x, len(d_x), n,
        ROWS0=rows[0], ROWS1=rows[1], ROWS2=rows[2], COLUMNS=columns, LATENTS=d_latents.shape[1], SPAN=span,
        TOKENS=TILE, WIDE=tile, INNER=inner(d_x),
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return d_x


@jit
def _through(  # type: ignore[no-untyped-def]
    total, d_y, blocks, token, real, column, is_column, group, end, n,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """total + what a sibling's gradient gives through its blocks."""
    for first in range(0, SPAN * ROWS, INNER):
        row = group * SPAN * ROWS + first + tl.arange(0, INNER)
        is_row = row < end * ROWS
        a = tl.load(d_y + token[:, None] * (n * ROWS) + row[None, :], mask=real & is_row[None, :], other=0.0)
        within, there = place(row[:, None], column[None, :], group, end, ROWS, COLUMNS, SPAN)
        b = tl.load(blocks + row[:, None] * COLUMNS + within, mask=there, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@jit
def write_input_gradient(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, blocks0, blocks1, blocks2, d_latents, encoders, d_x, tokens, n,
    ROWS0: tl.constexpr, ROWS1: tl.constexpr, ROWS2: tl.constexpr, COLUMNS: tl.constexpr,
    LATENTS: tl.constexpr, SPAN: tl.constexpr,
    TOKENS: tl.constexpr, WIDE: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Some columns for some tokens."""
    group, end, column = tile_of(tl.program_id(0), n, COLUMNS, SPAN, WIDE)
    token = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    real, is_column = (token < tokens)[:, None], column < end * COLUMNS
    total = tl.zeros((TOKENS, WIDE), tl.float32)
    total = _through(
        total, d_y0, blocks0, token, real, column, is_column, group, end, n, ROWS0, COLUMNS, SPAN, INNER
    )
    if ROWS1 > 0:
        total = _through(
            total, d_y1, blocks1, token, real, column, is_column, group, end, n, ROWS1, COLUMNS, SPAN, INNER
        )
    if ROWS2 > 0:
        total = _through(
            total, d_y2, blocks2, token, real, column, is_column, group, end, n, ROWS2, COLUMNS, SPAN, INNER
        )
    for first in range(0, LATENTS, INNER):
        latent = first + tl.arange(0, INNER)
        a = tl.load(
            d_latents + token[:, None] * LATENTS + latent[None, :],
            mask=real & (latent < LATENTS)[None, :], other=0.0,
        )  # fmt: skip
        b = tl.load(
            encoders + latent[:, None] * (n * COLUMNS) + column[None, :],
            mask=(latent < LATENTS)[:, None] & is_column[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(a, b, total, input_precision="ieee")
    at = d_x + token[:, None] * (n * COLUMNS) + column[None, :]
    tl.store(at, total, mask=real & is_column[None, :])
