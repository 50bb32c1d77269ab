"""Back from the gradients of the outputs of HDPL siblings in one Triton kernel: through decoders and the
latents' step to mu and logvar, and through the blocks to the input.

Both read all of these gradients. The programs of either way that share tokens run side by side, so that
memory is read once for both.
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
NARROW = 64  # columns of narrower blocks that a program takes: more would be zeros mostly
TOKENS = 64  # of a program
ELEMENTS = 512  # latents of a program's turn for each of the four words of noise


def fits_blocks(blocks: Sequence[Tensor]) -> bool:
    """Whether the kernel can take these siblings' blocks, and is worth it."""
    return len(blocks) <= MOST and len({len(b) for b in blocks}) == 1 and blocks[0].shape[2] <= WIDEST


def fits_decoders(ranks: Sequence[int]) -> bool:
    """Whether a program can hold the gradients of its tokens' h."""
    return max(ranks) <= TILE


def through_blocks_fused(d_ys: Sequence[Tensor], blocks: Sequence[Tensor]) -> Tensor:
    """`through_blocks` of `paths.py`."""
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
    slopes: Tensor,
    spend: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`back` of `paths.py` from a seed."""
    n, _, columns = blocks[0].shape
    tokens, ranks = len(latents), [decoder.shape[1] for decoder in decoders]
    latents = latents.contiguous()
    d_latents = latents if spend else torch.empty_like(latents)
    h, d_x = latents.new_empty(tokens, sum(ranks)), latents.new_empty(tokens, n * columns)
    d_bias = latents.new_empty(ceil_div(tokens, TOKENS), latents.shape[1], dtype=torch.float32)
    of_latents = [latents, seed, d_loss, slopes, d_latents, h, d_bias]
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
    """Without siblings in `terms` through the blocks alone; what belongs to latents is not read then."""
    n, _, columns = blocks[0].shape
    rows = [block.shape[1] for block in blocks] + [0] * (MOST - len(blocks))
    span = max(1, min(n, NARROW // columns))
    tile, parts = tiling(n, columns, span)
    step = inner(d_x)
    steps = sum(ceil_div(span * count, step) for count in rows)
    sizes = [n, span, *units(*rows, columns)]
    constants = {"WIDE": tile, "UNIT": UNIT, "INNER": step, "SPANS": span > 1}
    weights = filled(blocks)
    if span > 1:
        weights = [d_x.new_empty(parts, steps, step, tile)] * MOST
        pack_blocks[(parts, steps)](
            *filled(blocks), weights[0], *sizes, **constants, num_warps=4, num_stages=1
        )
    siblings, width = len(terms.forms), block_size(max(ranks))
    write_siblings_back[(siblings + parts, ceil_div(len(d_x), TOKENS))](
        *filled(d_ys), *weights, d_x, *filled(decoders), *of_latents,
        len(d_x), steps, siblings, *sizes, *units(sum(ranks), *filled(ranks)), terms.code, LN2, 0,
        **constants, TOKENS=TOKENS, WIDTH=width, GROUPS=min(TOKENS // 4, ELEMENTS // width),
        LATENTS=siblings > 0, ALIGNED=alignment(ranks), CLAMPED=terms.clamped, SUMMED=terms.summed,
        ROUNDS=ROUNDS,
        num_warps=4, num_stages=3,
    )  # fmt: skip


@jit
def _step(step, group, end, span, rows0, rows1, rows2, INNER: tl.constexpr):  # type: ignore[no-untyped-def]
    """(number of a sibling, rows of its blocks, what of its rows belongs to this step of a group's sum, which
    of them exist): siblings follow each other."""
    end0 = tl.cdiv(span * rows0, INNER)
    end1 = end0 + tl.cdiv(span * rows1, INNER)
    sibling = (step >= end0).to(tl.int32) + (step >= end1)
    rows = pick(sibling, rows0, rows1, rows2, 0)
    row = group * span * rows + (step - pick(sibling, 0, end0, end1, 0)) * INNER + tl.arange(0, INNER)
    return sibling, rows, row, row < end * rows


@jit_once("n", "span", "rows0", "rows1", "rows2", "columns")
def pack_blocks(  # type: ignore[no-untyped-def]
    blocks0, blocks1, blocks2, packed, n, span, rows0, rows1, rows2, columns,
    WIDE: tl.constexpr, UNIT: tl.constexpr, INNER: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The weights of one step for one tile of columns that spans several blocks, in the order of use."""
    rows0, rows1, rows2, columns = rows0 * UNIT, rows1 * UNIT, rows2 * UNIT, columns * UNIT
    part, step = tl.program_id(0), tl.program_id(1)
    group, end, column = tile_of(part, n, columns, span, WIDE)
    sibling, rows, row, _ = _step(step, group, end, span, rows0, rows1, rows2, INNER)
    at = packed + (part * tl.num_programs(1) + step) * (INNER * WIDE)
    at += tl.arange(0, INNER)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    blocks = choose(sibling, blocks0, blocks1, blocks2)
    within, there = place(row[:, None], column[None, :], group, end, rows, columns, SPANS)
    tl.store(at, tl.load(blocks + row[:, None] * columns + within, mask=there, other=0.0))


@jit
def _to_input(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, blocks0, blocks1, blocks2, d_x, part, tile, tokens, steps, n, span,
    rows0, rows1, rows2, columns,
    WIDE: tl.constexpr, INNER: tl.constexpr, SPANS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Some columns of the input's gradient for some tokens. All that is summed over is one loop, so that what
    it reads is on its way from the first step to the last. SPANS: `blocks0` are all blocks, packed."""
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
        at = pick(sibling, d_y0, d_y1, d_y2, d_y2) + token * (n * rows) + row[None, :]
        a = tl.load(at, mask=real & exists[None, :], other=0.0)
        if SPANS:
            b = tl.load(packed + step * (INNER * WIDE))
        else:
            at = pick(sibling, blocks0, blocks1, blocks2, blocks2) + row[:, None] * columns + within[None, :]
            b = tl.load(at, mask=exists[:, None] & is_column[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    tl.store(d_x + token * (n * columns) + column[None, :], total, mask=real & is_column[None, :])


@jit
def _to_h(  # type: ignore[no-untyped-def]
    d_y, decoder, d_h, tile, tokens, width, d_out, first, rank,
    WIDTH: tl.constexpr, INNER: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """The gradient of a sibling's h for some tokens."""
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
    latents, seed, d_loss, slopes, d_latents, h, d_bias,
    tokens, steps, siblings, n, span, rows0, rows1, rows2, columns,
    width, rank0, rank1, rank2, forms, ln2, zero,
    WIDE: tl.constexpr, UNIT: tl.constexpr, INNER: tl.constexpr, SPANS: tl.constexpr,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, LATENTS: tl.constexpr,
    ALIGNED: tl.constexpr, CLAMPED: tl.constexpr, SUMMED: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """For some tokens the gradients of one sibling's latents, or some columns of the input's gradient."""
    rows0, rows1, rows2, columns = rows0 * UNIT, rows1 * UNIT, rows2 * UNIT, columns * UNIT
    width, rank0, rank1, rank2 = width * UNIT, rank0 * UNIT, rank1 * UNIT, rank2 * UNIT
    sibling, tile = tl.program_id(0), tl.program_id(1)
    if sibling >= siblings:
        _to_input(
            d_y0, d_y1, d_y2, blocks0, blocks1, blocks2, d_x, sibling - siblings, tile, tokens, steps,
            n, span, rows0, rows1, rows2, columns, WIDE, INNER, SPANS, TOKENS,
        )  # fmt: skip
    elif LATENTS:
        d_y = pick(sibling, d_y0, d_y1, d_y2, d_y2)
        decoder = pick(sibling, decoder0, decoder1, decoder2, decoder2)
        d_out = n * pick(sibling, rows0, rows1, rows2, rows2)
        first = tl.multiple_of(pick(sibling, 0, rank0, rank0 + rank1, 0), ALIGNED)
        rank = pick(sibling, rank0, rank1, rank2, rank2)
        _to_h(d_y, decoder, h, tile, tokens, width, d_out, first, rank, WIDTH, INNER, TOKENS)
        tl.debug_barrier()  # what other threads have written of it is read next
        begin = tile * (TOKENS // 4)
        back_to_latents(
            latents, seed, h, d_loss, slopes, d_latents, d_bias + tile * (2 * width), sibling,
            begin, begin + TOKENS // 4, GROUPS, tokens, width, rank0, rank1, rank2, 0, forms, ln2, zero,
            GROUPS, WIDTH, ALIGNED, CLAMPED, SUMMED, ROUNDS,
        )  # fmt: skip
