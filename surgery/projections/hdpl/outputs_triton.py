"""Both paths of equal-sized projections as one Triton kernel: y = BlockDiag(x) + D h (+ b), written once.

Why no library: none has HDPL, and a batched product of torch per path would write the output, and read and
write it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from surgery.ops.kernels import block_size, ceil_div, jit_once, readable_by_tile, tile_reader, tl
from surgery.projections.hdpl.tiles import (
    MOST,
    PROGRAMS,
    TILE,
    UNIT,
    block_column,
    group_by_shape,
    inner,
    joined,
    pad_args,
    select3,
    select4,
    shared_memory_bytes,
    spanned,
    tile_of,
    tiling,
    units,
)

RESIDENT = 96 * 1024  # bytes of weights that a program keeps while it iterates over the tokens, at most
TURN = 64  # tokens per iteration
BARRIERS = 1024  # bytes of barriers for copied tiles, with a margin
TILE_SIDE = 256  # elements along a tile that is copied at once, at most
CACHED = 24 * 2**20  # bytes of all siblings' weights, at most: more would evict x from the cache


def outputs_fused(
    x: Tensor,
    hs: Sequence[Tensor],
    blocks: Sequence[Tensor],
    decoders: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> list[Tensor]:
    """Compute `outputs` of `paths.py`."""
    x = x.contiguous()
    ys = [x.new_empty(len(x), len(decoder)) for decoder in decoders]
    ranks, bare = [decoder.shape[1] for decoder in decoders], [bias is None for bias in biases]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*blocks, *decoders))
    for indices in group_by_shape(blocks, ranks, bare, most=MOST if weights <= CACHED else 1):
        first = indices[0]
        n, rows, columns = blocks[first].shape
        span = spanned(blocks[first])
        tile, parts = tiling(n, rows, span)
        wide = [block_size(depth) for depth in (span * columns, ranks[first])]
        stages = _stages(x, tile, wide)
        if rows % (2 * TILE) == 0 and _stages(x, 2 * tile, wide):  # so h is read half as often
            tile, parts, stages = 2 * tile, parts // 2, 3
        own = [[group[index] for index in indices] for group in (blocks, decoders, ys)]
        vectors = [biases[index] for index in indices]
        passed = [ys[first] if vector is None else vector for vector in vectors]  # not read without a bias
        tensors = [*pad_args(own[0]), *pad_args(own[1]), *pad_args(passed), *pad_args(own[2])]
        h, firsts = joined([hs[index] for index in indices])
        numbers = [len(x), n, span, *units(h.stride(0), *pad_args(firsts), rows, columns, ranks[first])]
        constants = {"WIDE": tile, "SPANS": span > 1, "BIAS": not bare[first], "UNIT": UNIT}
        if stages:
            turns = max(1, min(PROGRAMS // (parts * len(indices)), ceil_div(len(x), TURN)))
            by_tile = max(wide) <= TILE_SIDE and readable_by_tile(x, h)
            inputs = [tile_reader(m, (TURN, w)) if by_tile else m for m, w in zip((x, h), wide, strict=True)]
            write_narrow_outputs[(parts, len(indices), turns)](
                *inputs, *tensors, *numbers, **constants, TOKENS=TURN, DEEP=wide[0], LATENT=wide[1],
                BY_TILE=by_tile, num_warps=4, num_stages=stages,
            )  # fmt: skip
            continue
        write_outputs[(parts, len(indices), ceil_div(len(x), TILE))](
            x, h, *tensors, *numbers, **constants, TOKENS=TILE, INNER=inner(x),
            num_warps=4, num_stages=3,
        )  # fmt: skip
    return ys


def _stages(x: Tensor, tile: int, wide: list[int]) -> int:
    """Return the pipeline stages that fit in shared memory with the weights resident; 0 if none do."""
    resident = sum(wide) * tile * x.element_size()
    if resident <= RESIDENT:
        for stages in (4, 3):
            turns = TURN * (stages * sum(wide) + tile) * x.element_size()
            if resident + turns + BARRIERS <= shared_memory_bytes(x.device):
                return stages
    return 0


@jit_once("tokens", "n", "span", "h_stride", "first0", "first1", "first2", "rows", "columns", "rank")
def write_outputs(  # type: ignore[no-untyped-def]
    x, h, blocks0, blocks1, blocks2, decoder0, decoder1, decoder2, bias0, bias1, bias2, y0, y1, y2,
    tokens, n, span, h_stride, first0, first1, first2, rows, columns, rank,
    WIDE: tl.constexpr, SPANS: tl.constexpr, BIAS: tl.constexpr, UNIT: tl.constexpr,
    TOKENS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Compute a tile of one sibling's output.

    Neighbouring programs have the same tokens, so that these are read from memory once; weights stay in the
    cache.
    """
    h_stride, rows, columns, rank = h_stride * UNIT, rows * UNIT, columns * UNIT, rank * UNIT
    sibling = tl.program_id(1)
    h_first = select4(sibling, first0, first1, first2, 0) * UNIT
    blocks = select3(sibling, blocks0, blocks1, blocks2)
    decoder = select3(sibling, decoder0, decoder1, decoder2)
    y = select3(sibling, y0, y1, y2)
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
        within, there = block_column(row[None, :], column[:, None], group, end, rows, columns, SPANS)
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
        bias = select3(sibling, bias0, bias1, bias2)
        total += tl.load(bias + row, mask=is_row, other=0.0).to(tl.float32)[None, :]
    tl.store(y + token[:, None] * (n * rows) + row[None, :], total, mask=real & is_row[None, :])


@jit_once("tokens", "n", "span", "h_stride", "first0", "first1", "first2", "rows", "columns", "rank")
def write_narrow_outputs(  # type: ignore[no-untyped-def]
    x, h, blocks0, blocks1, blocks2, decoder0, decoder1, decoder2, bias0, bias1, bias2, y0, y1, y2,
    tokens, n, span, h_stride, first0, first1, first2, rows, columns, rank,
    WIDE: tl.constexpr, SPANS: tl.constexpr, BIAS: tl.constexpr, UNIT: tl.constexpr,
    TOKENS: tl.constexpr, DEEP: tl.constexpr, LATENT: tl.constexpr, BY_TILE: tl.constexpr,
):  # fmt: skip
    """Compute some rows of one sibling's output for many tokens, with weights that are loaded once.

    BY_TILE: x and h are copied by TMA, and elements beyond a group's columns or a sibling's latents are
    multiplied by zero weights.
    """
    h_stride, rows, columns, rank = h_stride * UNIT, rows * UNIT, columns * UNIT, rank * UNIT
    sibling = tl.program_id(1)
    h_first = select4(sibling, first0, first1, first2, 0) * UNIT
    blocks = select3(sibling, blocks0, blocks1, blocks2)
    decoder = select3(sibling, decoder0, decoder1, decoder2)
    y = select3(sibling, y0, y1, y2)
    group, end, row = tile_of(tl.program_id(0), n, rows, span, WIDE)
    column = group * span * columns + tl.arange(0, DEEP)
    latent = tl.arange(0, LATENT)
    is_row, is_column, is_latent = row < end * rows, column < end * columns, latent < rank
    within, there = block_column(row[None, :], column[:, None], group, end, rows, columns, SPANS)
    of_blocks = tl.load(blocks + row[None, :] * columns + within, mask=there, other=0.0)
    of_decoder = tl.load(
        decoder + row[None, :] * rank + latent[:, None],
        mask=is_row[None, :] & is_latent[:, None], other=0.0,
    )  # fmt: skip
    shift = tl.zeros((WIDE,), tl.float32)
    if BIAS:
        shift += tl.load(select3(sibling, bias0, bias1, bias2) + row, mask=is_row, other=0.0).to(tl.float32)
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
