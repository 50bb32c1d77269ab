"""Backward pass of HDPL siblings as one Triton kernel.

From the outputs' gradients through decoders and latents to mu and logvar, and through the blocks to the
input. Both need all of the outputs' gradients. Programs of both paths for the same tokens run concurrently,
so that memory is read once for both.

Why no library: none has HDPL, and batched products of torch would read the outputs' gradients once per path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surgery.ops.kernels import block_size, ceil_div, jit, jit_once, tl
from surgery.projections.hdpl.kl import LN2, Terms
from surgery.projections.hdpl.latent_triton import ROUNDS, alignment, back_to_latents
from surgery.projections.hdpl.tiles import (
    MOST,
    TILE,
    UNIT,
    block_column,
    inner,
    pad_args,
    select3,
    select4,
    tile_of,
    tiling,
    units,
)

WIDEST = 256  # columns of a block, at most: for wider ones the libraries' products are faster
NARROW = 64  # columns per program for narrower blocks: with more, most elements would be zeros
TOKENS = 64  # per program
ELEMENTS = 512  # latents per iteration and word of the random numbers


def fits_blocks(blocks: Sequence[Tensor]) -> bool:
    """Return whether the kernel supports these siblings' blocks and is faster for them."""
    return len(blocks) <= MOST and len({len(b) for b in blocks}) == 1 and blocks[0].shape[2] <= WIDEST


def fits_decoders(ranks: Sequence[int]) -> bool:
    """Return whether a program can hold the gradients of its tokens' h."""
    return max(ranks) <= TILE


def through_blocks_fused(d_ys: Sequence[Tensor], blocks: Sequence[Tensor]) -> Tensor:
    """Compute `through_blocks` of `paths.py`."""
    n, _, columns = blocks[0].shape
    d_x = d_ys[0].new_empty(len(d_ys[0]), n * columns)
    _launch(d_ys, blocks, d_x, [*d_ys], [d_x] * 7, [UNIT], Terms([], []))
    return d_x


def back_fused(
    d_ys: Sequence[Tensor],
    blocks: Sequence[Tensor],
    decoders: Sequence[Tensor],
    latents: Tensor,
    seed: Tensor,
    terms: Terms,
    d_loss: Tensor,
    d_penalty: Tensor,
    inplace: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute `back` of `paths.py` with noise from a seed."""
    n, _, columns = blocks[0].shape
    tokens, ranks = len(latents), [decoder.shape[1] for decoder in decoders]
    latents = latents.contiguous()
    d_latents = latents if inplace else torch.empty_like(latents)
    h, d_x = latents.new_empty(tokens, sum(ranks)), latents.new_empty(tokens, n * columns)
    d_bias = latents.new_empty(ceil_div(tokens, TOKENS), latents.shape[1], dtype=torch.float32)
    of_latents = [latents, seed, d_loss, d_penalty, d_latents, h, d_bias]
    _launch(d_ys, blocks, d_x, decoders, of_latents, ranks, terms)
    return d_latents, h, d_bias, d_x


def _launch(
    d_ys: Sequence[Tensor],
    blocks: Sequence[Tensor],
    d_x: Tensor,
    decoders: Sequence[Tensor],
    of_latents: Sequence[Tensor],
    ranks: Sequence[int],
    terms: Terms,
) -> None:
    """Launch the kernel; without siblings in `terms`, for the blocks alone, and `of_latents` is not read."""
    n, _, columns = blocks[0].shape
    rows = [block.shape[1] for block in blocks] + [0] * (MOST - len(blocks))
    span = max(1, min(n, NARROW // columns))
    tile, parts = tiling(n, columns, span)
    step = inner(d_x)
    steps = sum(ceil_div(span * count, step) for count in rows)
    sizes = [n, span, *units(*rows, columns)]
    constants = {"WIDE": tile, "UNIT": UNIT, "INNER": step, "SPANS": span > 1}
    weights = pad_args(blocks)
    if span > 1:
        weights = [d_x.new_empty(parts, steps, step, tile)] * MOST
        pack_blocks[(parts, steps)](
            *pad_args(blocks), weights[0], *sizes, **constants, num_warps=4, num_stages=1
        )
    siblings, width = len(terms.forms), block_size(max(ranks))
    write_siblings_back[(siblings + parts, ceil_div(len(d_x), TOKENS))](
        *pad_args(d_ys), *weights, d_x, *pad_args(decoders), *of_latents,
        len(d_x), steps, siblings, *sizes, *units(sum(ranks), *pad_args(ranks)), terms.code, LN2, 0,
        **constants, TOKENS=TOKENS, WIDTH=width, GROUPS=min(TOKENS // 4, ELEMENTS // width),
        LATENTS=siblings > 0, ALIGNED=alignment(ranks), CLAMPED=terms.clamped, SUMMED=terms.summed,
        ROUNDS=ROUNDS,
        num_warps=4, num_stages=3,
    )  # fmt: skip


@jit
def _step(step, group, end, span, rows0, rows1, rows2, INNER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the rows of one step of a group's sum, which iterates over the siblings one after the other.

    Returns (sibling, rows of its blocks, rows of this step, mask of existing ones).
    """
    end0 = tl.cdiv(span * rows0, INNER)
    end1 = end0 + tl.cdiv(span * rows1, INNER)
    sibling = (step >= end0).to(tl.int32) + (step >= end1)
    rows = select4(sibling, rows0, rows1, rows2, 0)
    row = group * span * rows + (step - select4(sibling, 0, end0, end1, 0)) * INNER + tl.arange(0, INNER)
    return sibling, rows, row, row < end * rows


@jit_once("n", "span", "rows0", "rows1", "rows2", "columns")
def pack_blocks(  # type: ignore[no-untyped-def]
    blocks0, blocks1, blocks2, packed, n, span, rows0, rows1, rows2, columns,
    WIDE: tl.constexpr, UNIT: tl.constexpr, INNER: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """Copy the weights of one step for a tile of columns that spans several blocks, in the order of use."""
    rows0, rows1, rows2, columns = rows0 * UNIT, rows1 * UNIT, rows2 * UNIT, columns * UNIT
    part, step = tl.program_id(0), tl.program_id(1)
    group, end, column = tile_of(part, n, columns, span, WIDE)
    sibling, rows, row, _ = _step(step, group, end, span, rows0, rows1, rows2, INNER)
    at = packed + (part * tl.num_programs(1) + step) * (INNER * WIDE)
    at += tl.arange(0, INNER)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    blocks = select3(sibling, blocks0, blocks1, blocks2)
    within, there = block_column(row[:, None], column[None, :], group, end, rows, columns, SPANS)
    tl.store(at, tl.load(blocks + row[:, None] * columns + within, mask=there, other=0.0))


@jit
def _to_input(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, blocks0, blocks1, blocks2, d_x, part, tile, tokens, steps, n, span,
    rows0, rows1, rows2, columns,
    WIDE: tl.constexpr, INNER: tl.constexpr, SPANS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Compute a tile of the input's gradient.

    The sum over all siblings is a single loop, so that its loads are pipelined throughout. SPANS: `blocks0`
    holds all blocks, packed.
    """
    group, end, column = tile_of(part, n, columns, span, WIDE)
    token = tile * TOKENS + tl.arange(0, TOKENS)
    real = (token < tokens)[:, None]
    token = token.to(tl.int64)[:, None]
    packed = blocks0 + part * steps * (INNER * WIDE)
    packed += tl.arange(0, INNER)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    within, is_column = column - group * columns, column < end * columns
    total = tl.zeros((TOKENS, WIDE), tl.float32)
    for step in range(steps):
        sibling, rows, row, exists = _step(step, group, end, span, rows0, rows1, rows2, INNER)
        at = select4(sibling, d_y0, d_y1, d_y2, d_y2) + token * (n * rows) + row[None, :]
        a = tl.load(at, mask=real & exists[None, :], other=0.0)
        if SPANS:
            b = tl.load(packed + step * (INNER * WIDE))
        else:
            at = (
                select4(sibling, blocks0, blocks1, blocks2, blocks2)
                + row[:, None] * columns
                + within[None, :]
            )
            b = tl.load(at, mask=exists[:, None] & is_column[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    tl.store(d_x + token * (n * columns) + column[None, :], total, mask=real & is_column[None, :])


@jit
def _to_h(  # type: ignore[no-untyped-def]
    d_y, decoder, d_h, tile, tokens, width, d_out, first, rank,
    WIDTH: tl.constexpr, INNER: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of a sibling's h for some tokens."""
    token = tile * TOKENS + tl.arange(0, TOKENS)
    real = (token < tokens)[:, None]
    token = token.to(tl.int64)[:, None]
    latent = tl.arange(0, WIDTH)
    exists = (latent < rank)[None, :]
    total = tl.zeros((TOKENS, WIDTH), tl.float32)
    for start in range(0, d_out, INNER):
        row = start + tl.arange(0, INNER)
        there = row < d_out
        a = tl.load(d_y + token * d_out + row[None, :], mask=real & there[None, :], other=0.0)
        at = decoder + row[:, None] * rank + latent[None, :]
        b = tl.load(at, mask=there[:, None] & exists, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    tl.store(d_h + token * width + (first + latent)[None, :], total, mask=real & exists)


@jit_once(
    "tokens", "steps", "siblings", "n", "span", "rows0", "rows1", "rows2", "columns",
    "width", "rank0", "rank1", "rank2", "forms",
)  # fmt: skip
def write_siblings_back(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, blocks0, blocks1, blocks2, d_x, decoder0, decoder1, decoder2,
    latents, seed, d_loss, d_penalty, d_latents, h, d_bias,
    tokens, steps, siblings, n, span, rows0, rows1, rows2, columns,
    width, rank0, rank1, rank2, forms, ln2, zero,
    WIDE: tl.constexpr, UNIT: tl.constexpr, INNER: tl.constexpr, SPANS: tl.constexpr,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, LATENTS: tl.constexpr,
    ALIGNED: tl.constexpr, CLAMPED: tl.constexpr, SUMMED: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of one sibling's latents, or a tile of the input's gradient, for some tokens."""
    rows0, rows1, rows2, columns = rows0 * UNIT, rows1 * UNIT, rows2 * UNIT, columns * UNIT
    width, rank0, rank1, rank2 = width * UNIT, rank0 * UNIT, rank1 * UNIT, rank2 * UNIT
    sibling, tile = tl.program_id(0), tl.program_id(1)
    if sibling >= siblings:
        _to_input(
            d_y0, d_y1, d_y2, blocks0, blocks1, blocks2, d_x, sibling - siblings, tile, tokens, steps,
            n, span, rows0, rows1, rows2, columns, WIDE, INNER, SPANS, TOKENS,
        )  # fmt: skip
    elif LATENTS:
        d_y = select4(sibling, d_y0, d_y1, d_y2, d_y2)
        decoder = select4(sibling, decoder0, decoder1, decoder2, decoder2)
        d_out = n * select4(sibling, rows0, rows1, rows2, rows2)
        first = tl.multiple_of(select4(sibling, 0, rank0, rank0 + rank1, 0), ALIGNED)
        rank = select4(sibling, rank0, rank1, rank2, rank2)
        _to_h(d_y, decoder, h, tile, tokens, width, d_out, first, rank, WIDTH, INNER, TOKENS)
        tl.debug_barrier()  # h, written by other threads, is read next
        begin = tile * (TOKENS // 4)
        back_to_latents(
            latents, seed, h, d_loss, d_penalty, d_latents, d_bias + tile * (2 * width), sibling,
            begin, begin + TOKENS // 4, GROUPS, tokens, width, rank0, rank1, rank2, 0, forms, ln2, zero,
            GROUPS, WIDTH, ALIGNED, CLAMPED, SUMMED, ROUNDS,
        )  # fmt: skip
