"""The gradient of the input of HDPL siblings in one Triton kernel: through all their blocks and encoders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from surgery.kernels import ceil_div, jit, jit_once, tl
from surgery.projections.hdpl.tiles import (
    MOST,
    TILE,
    UNIT,
    choose,
    filled,
    inner,
    pick,
    place,
    tile_of,
    tiling,
    units,
)

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
    step = inner(d_x)
    steps = sum(ceil_div(span * count, step) for count in rows) + ceil_div(d_latents.shape[1], step)
    sizes = [n, span, *units(*rows, columns, d_latents.shape[1])]
    constants = {"WIDE": tile, "UNIT": UNIT, "INNER": step}
    packed = d_x.new_empty(parts, steps, step, tile)
    pack_weights[(parts, steps)](
        *filled(blocks), encoders, packed, *sizes, **constants, SPANS=span > 1, num_warps=4, num_stages=1
    )
    write_input_gradient[(parts, ceil_div(len(d_x), TILE))](
        *filled(d_ys), d_latents, packed, d_x, len(d_x), steps, *sizes, **constants, TOKENS=TILE,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    return d_x


@jit
def _step(step, group, end, span, rows0, rows1, rows2, latents, INNER: tl.constexpr):  # type: ignore[no-untyped-def]
    """(number of a sibling, or 3 for the latents, rows of its blocks, what of its rows belongs to this step
    of a group's sum, which of them exist): first come the siblings' rows, then the latents."""
    end0 = tl.cdiv(span * rows0, INNER)
    end1 = end0 + tl.cdiv(span * rows1, INNER)
    end2 = end1 + tl.cdiv(span * rows2, INNER)
    source = (step >= end0).to(tl.int32) + (step >= end1) + (step >= end2)
    rows = pick(source, rows0, rows1, rows2, 0)
    row = group * span * rows + (step - pick(source, 0, end0, end1, end2)) * INNER + tl.arange(0, INNER)
    return source, rows, row, row < pick(source, end * rows0, end * rows1, end * rows2, latents)


@jit_once("n", "span", "rows0", "rows1", "rows2", "columns", "latents")
def pack_weights(  # type: ignore[no-untyped-def]
    blocks0, blocks1, blocks2, encoders, packed, n, span, rows0, rows1, rows2, columns, latents,
    WIDE: tl.constexpr, UNIT: tl.constexpr, INNER: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The weights of one step for one tile of columns, in the order in which they are used."""
    rows0, rows1, rows2 = rows0 * UNIT, rows1 * UNIT, rows2 * UNIT
    columns, latents = columns * UNIT, latents * UNIT
    part, step = tl.program_id(0), tl.program_id(1)
    group, end, column = tile_of(part, n, columns, span, WIDE)
    source, rows, row, exists = _step(step, group, end, span, rows0, rows1, rows2, latents, INNER)
    at = packed + (part * tl.num_programs(1) + step) * (INNER * WIDE)
    at += tl.arange(0, INNER)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    if source == 3:
        there = exists[:, None] & (column < end * columns)[None, :]
        tl.store(
            at, tl.load(encoders + row[:, None] * (n * columns) + column[None, :], mask=there, other=0.0)
        )
    else:
        blocks = choose(source, blocks0, blocks1, blocks2)
        within, there = place(row[:, None], column[None, :], group, end, rows, columns, SPANS)
        tl.store(at, tl.load(blocks + row[:, None] * columns + within, mask=there, other=0.0))


@jit_once("tokens", "steps", "n", "span", "rows0", "rows1", "rows2", "columns", "latents")
def write_input_gradient(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, d_latents, packed, d_x, tokens, steps, n, span, rows0, rows1, rows2, columns,
    latents, WIDE: tl.constexpr, UNIT: tl.constexpr, INNER: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Some columns for some tokens. All that is summed over is one loop, so that what it reads is on its way
    from the first step to the last."""
    rows0, rows1, rows2 = rows0 * UNIT, rows1 * UNIT, rows2 * UNIT
    columns, latents = columns * UNIT, latents * UNIT
    part = tl.program_id(0)
    group, end, column = tile_of(part, n, columns, span, WIDE)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    real = (token < tokens)[:, None]
    token = token.to(tl.int64)[:, None]
    weights = packed + part * steps * (INNER * WIDE)
    weights += tl.arange(0, INNER)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    total = tl.zeros((TOKENS, WIDE), tl.float32)
    for step in range(steps):
        source, rows, row, exists = _step(step, group, end, span, rows0, rows1, rows2, latents, INNER)
        at = pick(source, d_y0, d_y1, d_y2, d_latents)
        at += token * tl.where(source == 3, latents, n * rows) + row[None, :]
        a = tl.load(at, mask=real & exists[None, :], other=0.0)
        total = tl.dot(a, tl.load(weights + step * (INNER * WIDE)), total, input_precision="ieee")
    at = d_x + token * (n * columns) + column[None, :]
    tl.store(at, total, mask=real & (column < end * columns)[None, :])
