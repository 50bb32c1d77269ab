"""Both paths of alike projections in one Triton kernel: y = BlockDiag(x) + D h (+ b), each y written once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from surgery.ops.kernels import block_size, ceil_div, jit_once, readable_by_tile, tile_reader, tl
from surgery.projections.hdpl.tiles import (
    MOST,
    PROGRAMS,
    TILE,
    UNIT,
    alike,
    choose,
    filled,
    inner,
    joined,
    pick,
    place,
    room,
    spanned,
    tile_of,
    tiling,
    units,
)

RESIDENT = 96 * 1024  # bytes of weights that a program keeps while it goes through the tokens
TURN = 64  # tokens of a turn
BARRIERS = 1024  # bytes for what tells that a tile has come, and more
TILE_SIDE = 256  # elements along a tile that is copied as one, at most
CACHED = 24 * 2**20  # bytes of weights that siblings may have together: more would drive x out of the cache


def outputs_fused(
    x: Tensor,
    hs: Sequence[Tensor],
    blocks: Sequence[Tensor],
    decoders: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> list[Tensor]:
    """`outputs` of `paths.py`."""
    x = x.contiguous()
    ys = [x.new_empty(len(x), len(decoder)) for decoder in decoders]
    ranks, bare = [decoder.shape[1] for decoder in decoders], [bias is None for bias in biases]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*blocks, *decoders))
    for places in alike(blocks, ranks, bare, most=MOST if weights <= CACHED else 1):
        first = places[0]
        n, rows, columns = blocks[first].shape
        span = spanned(blocks[first])
        tile, parts = tiling(n, rows, span)
        wide = [block_size(depth) for depth in (span * columns, ranks[first])]
        stages = _stages(x, tile, wide)
        if rows % (2 * TILE) == 0 and _stages(x, 2 * tile, wide):  # so h is read half as often
            tile, parts, stages = 2 * tile, parts // 2, 3
        shifts = [biases[place] for place in places]
        of = [[group[place] for place in places] for group in (blocks, decoders, ys)]
        there = [ys[first] if shift is None else shift for shift in shifts]
        tensors = [*filled(of[0]), *filled(of[1]), *filled(there), *filled(of[2])]
        h, firsts = joined([hs[place] for place in places])
        numbers = [len(x), n, span, *units(h.stride(0), *filled(firsts), rows, columns, ranks[first])]
        constants = {"WIDE": tile, "SPANS": span > 1, "BIAS": not bare[first], "UNIT": UNIT}
        if stages:
            turns = max(1, min(PROGRAMS // (parts * len(places)), ceil_div(len(x), TURN)))
            by_tile = max(wide) <= TILE_SIDE and readable_by_tile(x, h)
            inputs = [tile_reader(m, (TURN, w)) if by_tile else m for m, w in zip((x, h), wide, strict=True)]
            write_narrow_outputs[(parts, len(places), turns)](
                *inputs, *tensors, *numbers, **constants, TOKENS=TURN, DEEP=wide[0], LATENT=wide[1],
                BY_TILE=by_tile, num_warps=4, num_stages=stages,
            )  # fmt: skip
            continue
        write_outputs[(parts, len(places), ceil_div(len(x), TILE))](
            x, h, *tensors, *numbers, **constants, TOKENS=TILE, INNER=inner(x),
            num_warps=4, num_stages=3,
        )  # fmt: skip
    return ys


def _stages(x: Tensor, tile: int, wide: list[int]) -> int:
    """How many turns' tokens a program has on their way or at hand, if it can keep the weights of so many
    rows; else 0."""
    resident = sum(wide) * tile * x.element_size()
    if resident <= RESIDENT:
        for stages in (4, 3):
            turns = TURN * (stages * sum(wide) + tile) * x.element_size()
            if resident + turns + BARRIERS <= room(x.device):
                return stages
    return 0


@jit_once("tokens", "n", "span", "h_stride", "first0", "first1", "first2", "rows", "columns", "rank")
def write_outputs(  # type: ignore[no-untyped-def]
    x, h, blocks0, blocks1, blocks2, decoder0, decoder1, decoder2, bias0, bias1, bias2, y0, y1, y2,
    tokens, n, span, h_stride, first0, first1, first2, rows, columns, rank,
    WIDE: tl.constexpr, SPANS: tl.constexpr, BIAS: tl.constexpr, UNIT: tl.constexpr,
    TOKENS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Some rows of one sibling for some tokens. Neighbouring programs share the tokens, so that these are
    read from memory once; weights stay in the cache."""
    h_stride, rows, columns, rank = h_stride * UNIT, rows * UNIT, columns * UNIT, rank * UNIT
    sibling = tl.program_id(1)
    h_first = pick(sibling, first0, first1, first2, 0) * UNIT
    blocks = choose(sibling, blocks0, blocks1, blocks2)
    decoder = choose(sibling, decoder0, decoder1, decoder2)
    y = choose(sibling, y0, y1, y2)
    group, end, row = tile_of(tl.program_id(0), n, rows, span, WIDE)
    token = tl.program_id(2).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    real, is_row = (token < tokens)[:, None], row < end * rows
    total = tl.zeros((TOKENS, WIDE), tl.float32)
    for first in range(0, span * columns, INNER):
        column = group * span * columns + first + tl.arange(0, INNER)
        a = tl.load(
            x + token[:, None] * (n * columns) + column[None, :],
            mask=real & (column < end * columns)[None, :], other=0.0,
        )  # fmt: skip
        within, there = place(row[None, :], column[:, None], group, end, rows, columns, SPANS)
        b = tl.load(blocks + row[None, :] * columns + within, mask=there, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    for first in range(0, rank, INNER):
        latent = first + tl.arange(0, INNER)
        a = tl.load(
            h + token[:, None] * h_stride + (h_first + latent)[None, :],
            mask=real & (latent < rank)[None, :],
            other=0.0,
        )
        b = tl.load(
            decoder + row[None, :] * rank + latent[:, None],
            mask=is_row[None, :] & (latent < rank)[:, None], other=0.0,
        )  # fmt: skip
        total = tl.dot(a, b, total, input_precision="ieee")
    if BIAS:
        bias = choose(sibling, bias0, bias1, bias2)
        total += tl.load(bias + row, mask=is_row, other=0.0).to(tl.float32)[None, :]
    tl.store(y + token[:, None] * (n * rows) + row[None, :], total, mask=real & is_row[None, :])


@jit_once("tokens", "n", "span", "h_stride", "first0", "first1", "first2", "rows", "columns", "rank")
def write_narrow_outputs(  # type: ignore[no-untyped-def]
    x, h, blocks0, blocks1, blocks2, decoder0, decoder1, decoder2, bias0, bias1, bias2, y0, y1, y2,
    tokens, n, span, h_stride, first0, first1, first2, rows, columns, rank,
    WIDE: tl.constexpr, SPANS: tl.constexpr, BIAS: tl.constexpr, UNIT: tl.constexpr,
    TOKENS: tl.constexpr, DEEP: tl.constexpr, LATENT: tl.constexpr, BY_TILE: tl.constexpr,
):  # fmt: skip
    """The same where a program can hold its rows' weights: loaded once, for many tokens. BY_TILE: x and h are
    read as tiles, and what is beyond a group's columns or a sibling's latents meets weights of zero."""
    h_stride, rows, columns, rank = h_stride * UNIT, rows * UNIT, columns * UNIT, rank * UNIT
    sibling = tl.program_id(1)
    h_first = pick(sibling, first0, first1, first2, 0) * UNIT
    blocks = choose(sibling, blocks0, blocks1, blocks2)
    decoder = choose(sibling, decoder0, decoder1, decoder2)
    y = choose(sibling, y0, y1, y2)
    group, end, row = tile_of(tl.program_id(0), n, rows, span, WIDE)
    column = group * span * columns + tl.arange(0, DEEP)
    latent = tl.arange(0, LATENT)
    is_row, is_column, is_latent = row < end * rows, column < end * columns, latent < rank
    within, there = place(row[None, :], column[:, None], group, end, rows, columns, SPANS)
    of_blocks = tl.load(blocks + row[None, :] * columns + within, mask=there, other=0.0)
    of_decoder = tl.load(
        decoder + row[None, :] * rank + latent[:, None],
        mask=is_row[None, :] & is_latent[:, None], other=0.0,
    )  # fmt: skip
    shift = tl.zeros((WIDE,), tl.float32)
    if BIAS:
        shift += tl.load(choose(sibling, bias0, bias1, bias2) + row, mask=is_row, other=0.0).to(tl.float32)
    for first in range(tl.program_id(2) * TOKENS, tokens, tl.num_programs(2) * TOKENS):
        token = first + tl.arange(0, TOKENS).to(tl.int64)
        real = (token < tokens)[:, None]
        if BY_TILE:
            a = x.load([first, group * span * columns])
        else:
            a = tl.load(
                x + token[:, None] * (n * columns) + column[None, :],
                mask=real & is_column[None, :],
                other=0.0,
            )
        total = tl.dot(a, of_blocks, input_precision="ieee")
        if BY_TILE:
            a = h.load([first, h_first])
        else:
            at = h + token[:, None] * h_stride + (h_first + latent)[None, :]
            a = tl.load(at, mask=real & is_latent[None, :], other=0.0)
        total = tl.dot(a, of_decoder, total, input_precision="ieee") + shift[None, :]
        tl.store(y + token[:, None] * (n * rows) + row[None, :], total, mask=real & is_row[None, :])
