"""The gradient of the input of HDPL siblings in one Triton kernel: through all their blocks and encoders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from surgery.kernels import ceil_div, jit, jit_once, tl
from surgery.projections.hdpl.tiles import MOST, TILE, UNIT, filled, inner, place, tile_of, tiling, units

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
        *filled(d_ys), *filled(blocks), d_latents, encoders, d_x,
        len(d_x), n, span, *units(*rows, columns, d_latents.shape[1]),
        WIDE=tile, SPANS=span > 1, COUNT=len(blocks), UNIT=UNIT, TOKENS=TILE, INNER=inner(d_x),
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return d_x


@jit
def _through(  # type: ignore[no-untyped-def]
    total, d_y, blocks, token, real, column, is_column, group, end, n, rows, columns, span,
    SPANS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """total + what a sibling's gradient gives through its blocks."""
    for first in range(0, span * rows, INNER):
        row = group * span * rows + first + tl.arange(0, INNER)
        is_row = row < end * rows
        a = tl.load(d_y + token[:, None] * (n * rows) + row[None, :], mask=real & is_row[None, :], other=0.0)
        within, there = place(row[:, None], column[None, :], group, end, rows, columns, SPANS)
        b = tl.load(blocks + row[:, None] * columns + within, mask=there, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@jit_once("tokens", "n", "span", "rows0", "rows1", "rows2", "columns", "latents")
def write_input_gradient(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, blocks0, blocks1, blocks2, d_latents, encoders, d_x,
    tokens, n, span, rows0, rows1, rows2, columns, latents,
    WIDE: tl.constexpr, SPANS: tl.constexpr, COUNT: tl.constexpr, UNIT: tl.constexpr,
    TOKENS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Some columns for some tokens."""
    rows0, rows1, rows2 = rows0 * UNIT, rows1 * UNIT, rows2 * UNIT
    columns, latents = columns * UNIT, latents * UNIT
    group, end, column = tile_of(tl.program_id(0), n, columns, span, WIDE)
    token = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    real, is_column = (token < tokens)[:, None], column < end * columns
    total = tl.zeros((TOKENS, WIDE), tl.float32)
    total = _through(
        total, d_y0, blocks0, token, real, column, is_column, group, end, n, rows0, columns, span,
        SPANS, INNER,
    )  # fmt: skip
    if COUNT > 1:
        total = _through(
            total, d_y1, blocks1, token, real, column, is_column, group, end, n, rows1, columns, span,
            SPANS, INNER,
        )  # fmt: skip
    if COUNT > 2:
        total = _through(
            total, d_y2, blocks2, token, real, column, is_column, group, end, n, rows2, columns, span,
            SPANS, INNER,
        )  # fmt: skip
    for first in range(0, latents, INNER):
        latent = first + tl.arange(0, INNER)
        a = tl.load(
            d_latents + token[:, None] * latents + latent[None, :],
            mask=real & (latent < latents)[None, :], other=0.0,
        )  # fmt: skip
        b = tl.load(
            encoders + latent[:, None] * (n * columns) + column[None, :],
            mask=(latent < latents)[:, None] & is_column[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(a, b, total, input_precision="ieee")
    at = d_x + token[:, None] * (n * columns) + column[None, :]
    tl.store(at, total, mask=real & is_column[None, :])
