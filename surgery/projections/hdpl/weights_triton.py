"""Gradients of the blocks of equal-sized projections as one Triton kernel.

If a program can hold the sums of both, it also computes those of the decoders, so that the outputs' gradients
are read once. Tokens are split among programs, each with its own sums: the libraries' batched products have
too few tiles to fill a large device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surgery.ops.kernels import block_size, ceil_div, jit_once, tl
from surgery.projections.hdpl.adding_triton import add_up
from surgery.projections.hdpl.tiles import (
    PROGRAMS,
    TILE,
    UNIT,
    block_column,
    concat_into,
    group_by_shape,
    inner,
    pad_args,
    row_stride,
    select3,
    shared_memory_bytes,
    spanned,
    tile_of,
    tiling,
    units,
)

SPLITS = 32  # of the tokens, at most
FILLING = 128  # tiles of a batched product that fill a large device
WIDEST = 256  # columns of a block, at most


def fits_weights(blocks: Sequence[Tensor]) -> bool:
    """Return whether a program can hold the sums, and batched products would underuse a large device."""
    few = all(len(b) * ceil_div(b.shape[1], TILE) * ceil_div(b.shape[2], TILE) < FILLING for b in blocks)
    return few and max(block.shape[2] for block in blocks) <= WIDEST


def weight_gradients_fused(
    x: Tensor,
    hs: Sequence[Tensor],
    d_ys: Sequence[Tensor],
    blocks: Sequence[Tensor],
    d_bias_parts: Tensor,
    out: Tensor,
) -> None:
    """Compute `weight_gradients` of `paths.py`."""
    x = x.contiguous()
    sets = group_by_shape([*blocks], [h.shape[1] for h in hs])
    partial = [d_bias_parts]
    for indices in sets:
        partial += _of_group(x, *([group[index] for index in indices] for group in (hs, d_ys, blocks)))
    if len(sets) == 1 and len(partial) == 3:  # blocks and decoders of all siblings
        add_up(partial, out)
        return
    d_bias, *sums = add_up(partial, x.new_empty(sum(tensor[0].numel() for tensor in partial)))
    of_sets = iter(sums)
    d_blocks: dict[int, Tensor] = {}
    d_decoders: dict[int, Tensor] = {}
    for indices in sets:
        d_blocks.update(zip(indices, next(of_sets), strict=True))
        if _holds_both(blocks[indices[0]], hs[indices[0]]):
            d_decoders.update(zip(indices, next(of_sets), strict=True))
        else:
            d_decoders.update((index, d_ys[index].t() @ hs[index]) for index in indices)
    order = range(len(hs))
    concat_into([d_bias, *(d_blocks[index] for index in order), *(d_decoders[index] for index in order)], out)


def _holds_both(blocks: Tensor, h: Tensor) -> bool:
    """Return whether a program can hold the sums of blocks and decoder."""
    return max(blocks.shape[2], h.shape[1]) <= TILE


def _of_group(x: Tensor, hs: list[Tensor], d_ys: list[Tensor], blocks: list[Tensor]) -> list[Tensor]:
    """Return the gradients of the siblings of one launch, summed over shares of the tokens.

    Those of their blocks (shares, siblings, n, rows, columns), and of their decoders if a program holds both.
    """
    n, rows, columns = blocks[0].shape
    rank, count, tokens = hs[0].shape[1], len(hs), len(x)
    both = _holds_both(blocks[0], hs[0])
    span = spanned(blocks[0])
    tile, parts = tiling(n, rows, span)
    step = inner(x)
    splits = max(1, min(SPLITS, PROGRAMS // (parts * count), ceil_div(tokens, step)))
    of_blocks = x.new_empty(splits, count, n, rows, columns, dtype=torch.float32)
    of_decoders = x.new_empty(splits, count, n * rows if both else 0, rank, dtype=torch.float32)
    wide, deep = block_size(span * columns), block_size(rank) if both else 16
    turn = step * (tile + wide + deep) * x.element_size()  # bytes
    back_to_weights[(parts, count, splits)](
        *pad_args(d_ys), x, *pad_args(hs), of_blocks, of_decoders,
        tokens, n, span, *units(row_stride(hs), rows, columns, rank),
        TALL=tile, WIDE=wide, DEEP=deep,
        SPANS=span > 1, DECODER=both, UNIT=UNIT, TOKENS=step,
        num_warps=8, num_stages=4 if 4 * turn <= shared_memory_bytes(x.device) else 3,
    )  # fmt: skip
    return [of_blocks, of_decoders] if both else [of_blocks]


@jit_once("tokens", "n", "span", "h_stride", "rows", "columns", "rank")
def back_to_weights(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, x, h0, h1, h2, d_blocks, d_decoder,
    tokens, n, span, h_stride, rows, columns, rank,
    TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
    SPANS: tl.constexpr, DECODER: tl.constexpr, UNIT: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of some rows of one sibling over a share of the tokens.

    DECODER: also those of the decoder.
    """
    h_stride, rows, columns, rank = h_stride * UNIT, rows * UNIT, columns * UNIT, rank * UNIT
    sibling = tl.program_id(1)
    d_y = select3(sibling, d_y0, d_y1, d_y2)
    h = select3(sibling, h0, h1, h2)
    group, end, row = tile_of(tl.program_id(0), n, rows, span, TALL)
    column = group * span * columns + tl.arange(0, WIDE)
    latent = tl.arange(0, DEEP)
    is_row, is_column, is_latent = row < end * rows, column < end * columns, latent < rank
    split = tl.program_id(2)
    total = tl.zeros((TALL, WIDE), tl.float32)
    total_decoder = tl.zeros((TALL, DEEP), tl.float32)
    for first in range(split * TOKENS, tokens, tl.num_programs(2) * TOKENS):
        token = first + tl.arange(0, TOKENS).to(tl.int64)
        real = (token < tokens)[:, None]
        d = tl.load(d_y + token[:, None] * (n * rows) + row[None, :], mask=real & is_row[None, :], other=0.0)
        d = tl.trans(d)
        seen = tl.load(
            x + token[:, None] * (n * columns) + column[None, :], mask=real & is_column[None, :], other=0.0
        )
        total = tl.dot(d, seen, total, input_precision="ieee")
        if DECODER:
            seen = tl.load(
                h + token[:, None] * h_stride + latent[None, :], mask=real & is_latent[None, :], other=0.0
            )
            total_decoder = tl.dot(d, seen, total_decoder, input_precision="ieee")
    at = (split.to(tl.int64) * tl.num_programs(1) + sibling) * (n * rows) + row
    within, there = block_column(row[:, None], column[None, :], group, end, rows, columns, SPANS)
    tl.store(d_blocks + at[:, None] * columns + within, total, mask=there)
    if DECODER:
        at = d_decoder + at[:, None] * rank + latent[None, :]
        tl.store(at, total_decoder, mask=is_row[:, None] & is_latent[None, :])
