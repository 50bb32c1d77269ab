"""Gradients of the blocks of alike projections in one Triton kernel, and of their decoders too where a
program can hold the sums of both, so that the outputs' gradients are read once. Tokens are split among
programs, each with its own sums: the libraries' batched products are too few tiles to fill a large device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surgery.kernels import block_size, ceil_div, jit, tl
from surgery.projections.hdpl.tiles import (
    TILE,
    alike,
    choose,
    filled,
    inner,
    place,
    row_stride,
    spanned,
    tile_of,
    tiling,
)

PROGRAMS = 132  # that keep all multiprocessors of a large device busy
SPLITS = 32  # of the tokens, at most
FILLING = 128  # tiles of a batched product that fill a large device
WIDEST = 256  # columns of a block


def fits_weights(blocks: Sequence[Tensor]) -> bool:
    """Whether a program can hold the sums, and batched products would leave most of a large device idle."""
    few = all(len(b) * ceil_div(b.shape[1], TILE) * ceil_div(b.shape[2], TILE) < FILLING for b in blocks)
    return few and max(block.shape[2] for block in blocks) <= WIDEST


def weight_gradients_fused(
    x: Tensor, hs: Sequence[Tensor], d_ys: Sequence[Tensor], blocks: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """`weight_gradients` of `paths.py`."""
    x = x.contiguous()
    d_blocks = [torch.empty_like(block) for block in blocks]
    d_decoders = [x.new_empty(d_y.shape[1], h.shape[1]) for d_y, h in zip(d_ys, hs, strict=True)]
    for places in alike([*blocks], [h.shape[1] for h in hs]):
        _of_alike(x, *([group[place] for place in places] for group in (hs, d_ys, d_blocks, d_decoders)))
    return d_blocks, d_decoders


def _of_alike(
    x: Tensor, hs: list[Tensor], d_ys: list[Tensor], d_blocks: list[Tensor], d_decoders: list[Tensor]
) -> None:
    """Writes the gradients of siblings that one launch takes."""
    n, rows, columns = d_blocks[0].shape
    rank, count, tokens = hs[0].shape[1], len(hs), len(x)
    both = max(columns, rank) <= TILE
    span = spanned(d_blocks[0])
    tile, parts = tiling(n, rows, span)
    step = inner(x)
    splits = max(1, min(SPLITS, PROGRAMS // (parts * count), ceil_div(tokens, step)))
    of_blocks = x.new_empty(splits, count, n, rows, columns, dtype=torch.float32)
    of_decoders = x.new_empty(splits, count, n * rows if both else 0, rank, dtype=torch.float32)
    back_to_weights[(count * parts, splits)](
        *filled(d_ys), x, *filled(hs), of_blocks, of_decoders,
        tokens, n, row_stride(hs), ceil_div(ceil_div(tokens, splits), step) * step,
        PARTS=parts, ROWS=rows, COLUMNS=columns, RANK=rank if both else 0, SPAN=span,
        TALL=tile, WIDE=block_size(span * columns), DEEP=block_size(rank) if both else 16, TOKENS=step,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    for mine, found in zip(d_blocks, of_blocks.sum(0), strict=True):
        mine.copy_(found)
    if both:
        for mine, found in zip(d_decoders, of_decoders.sum(0), strict=True):
            mine.copy_(found)
    else:
        for mine, d_y, h in zip(d_decoders, d_ys, hs, strict=True):
            torch.mm(d_y.t(), h, out=mine)


@jit
def back_to_weights(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, x, h0, h1, h2, d_blocks, d_decoder, tokens, n, h_stride, stretch,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr, SPAN: tl.constexpr,
    TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Sums for some rows of one sibling over one stretch of the tokens. RANK 0: without decoder."""
    sibling = tl.program_id(0) // PARTS
    part = tl.program_id(0) % PARTS
    d_y = choose(sibling, d_y0, d_y1, d_y2)
    h = choose(sibling, h0, h1, h2)
    group, end, row = tile_of(part, n, ROWS, SPAN, TALL)
    column = group * SPAN * COLUMNS + tl.arange(0, WIDE)
    latent = tl.arange(0, DEEP)
    is_row, is_column, is_latent = row < end * ROWS, column < end * COLUMNS, latent < RANK
    split = tl.program_id(1).to(tl.int64)
    total = tl.zeros((TALL, WIDE), tl.float32)
    total_decoder = tl.zeros((TALL, DEEP), tl.float32)
    for first in range(0, stretch, TOKENS):
        token = split * stretch + first + tl.arange(0, TOKENS)
        real = (token < tokens)[:, None]
        d = tl.load(d_y + token[:, None] * (n * ROWS) + row[None, :], mask=real & is_row[None, :], other=0.0)
        d = tl.trans(d)
        seen = tl.load(
            x + token[:, None] * (n * COLUMNS) + column[None, :], mask=real & is_column[None, :], other=0.0
        )
        total = tl.dot(d, seen, total, input_precision="ieee")
        if RANK > 0:
            seen = tl.load(
                h + token[:, None] * h_stride + latent[None, :], mask=real & is_latent[None, :], other=0.0
            )
            total_decoder = tl.dot(d, seen, total_decoder, input_precision="ieee")
    at = (split * (tl.num_programs(0) // PARTS) + sibling) * (n * ROWS) + row
    within, there = place(row[:, None], column[None, :], group, end, ROWS, COLUMNS, SPAN)
    tl.store(d_blocks + at[:, None] * COLUMNS + within, total, mask=there)
    if RANK > 0:
        at = d_decoder + at[:, None] * RANK + latent[None, :]
        tl.store(at, total_decoder, mask=is_row[:, None] & is_latent[None, :])
