"""Gradients of narrow HDPL siblings in two Triton kernels, each reading the outputs' gradients once.

Where blocks have few columns the libraries' batched products are small, and spend their time on reading and
on waiting: here both paths' products share what is read, and tokens are split among programs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surgery.kernels import block_size, ceil_div, jit, tl
from surgery.projections.hdpl.paths_triton import fits_outputs

MOST = 3  # siblings: a program holds the latents' gradients of all
WIDEST = 128  # columns of a block, and latents of a sibling
TOKENS = 64  # a program's, or of one of its steps
ROWS = 64
PROGRAMS = 264  # that keep all multiprocessors of a large device busy, twice over
SPLITS = 32  # parts of the tokens, each with its own sums of the weights' gradients


def fits_narrow(x: Tensor, blocks: Sequence[Tensor], decoders: Sequence[Tensor]) -> bool:
    """Whether the kernels can take these siblings, and are worth it."""
    known = fits_outputs(x) and len(blocks) <= MOST
    alike = len({len(block) for block in blocks}) == len({decoder.shape[1] for decoder in decoders}) == 1
    return known and alike and max(blocks[0].shape[2], decoders[0].shape[1]) <= WIDEST


def input_gradients_narrow(
    d_ys: Sequence[Tensor], blocks: Sequence[Tensor], decoders: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """`input_gradients` of `paths.py`."""
    n, _, columns = blocks[0].shape
    rank, count, tokens = decoders[0].shape[1], len(blocks), len(d_ys[0])
    d_x, d_h = d_ys[0].new_empty(tokens, n * columns), d_ys[0].new_empty(tokens, count * rank)
    last = MOST - count  # places without a sibling, which nobody reads
    rows = [block.shape[1] for block in blocks] + [0] * last
    # at least two steps: a loop of one is unrolled, and all siblings' weights are prefetched at once
    back_to_input[(ceil_div(tokens, TOKENS),)](
        *d_ys, *[d_x] * last, *blocks, *[d_x] * last, *decoders, *[d_x] * last,
        d_x, d_h, tokens, n,
        ROWS0=rows[0], ROWS1=rows[1], ROWS2=rows[2], COUNT=count,
        COLUMNS=columns, WIDE=block_size(columns), RANK=rank, DEEP=block_size(rank),
        TOKENS=TOKENS, STEP=block_size(ceil_div(max(rows), 2), ROWS),
        num_warps=8, num_stages=2,
    )  # fmt: skip
    return d_x, d_h


def weight_gradients_narrow(
    x: Tensor, h: Tensor, d_ys: Sequence[Tensor], blocks: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """`weight_gradients` of `paths.py`."""
    x = x.contiguous()
    rank = h.shape[1] // len(blocks)
    d_blocks, d_decoders = [], []
    for d_y, block, mine in zip(d_ys, blocks, h.split(rank, dim=1), strict=True):
        n, rows, columns = block.shape
        step = block_size(rows, ROWS)
        tiles = n * ceil_div(rows, step)
        splits = max(1, min(SPLITS, ceil_div(PROGRAMS, tiles), ceil_div(len(x), TOKENS)))
        span = ceil_div(ceil_div(len(x), splits), TOKENS) * TOKENS
        d_block = x.new_empty(splits, n, rows, columns, dtype=torch.float32)
        d_decoder = x.new_empty(splits, n * rows, rank, dtype=torch.float32)
        back_to_weights[(tiles, splits)](
            d_y, x, mine, d_block, d_decoder, len(x), n, rows, mine.stride(0), span,
            COLUMNS=columns, WIDE=block_size(columns), RANK=rank, DEEP=block_size(rank),
            ROWS=step, TOKENS=TOKENS,
            num_warps=4, num_stages=3,
        )  # fmt: skip
        d_blocks.append(d_block.sum(0).to(x.dtype))
        d_decoders.append(d_decoder.sum(0).to(x.dtype))
    return d_blocks, d_decoders


@jit
def _through(  # type: ignore[no-untyped-def]
    d_y, blocks, decoder, d_x, d_h, token, real, block, n, channel, latent,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Adds what one sibling's gradient gives through the weights of one block."""
    for first in range(0, ROWS, STEP):
        row = first + tl.arange(0, STEP)
        to = block * ROWS + row
        is_row = row < ROWS
        d = tl.load(
            d_y + token[:, None] * (n * ROWS) + to[None, :], mask=real[:, None] & is_row[None, :], other=0.0
        )
        weight = tl.load(
            blocks + to[:, None] * COLUMNS + channel[None, :],
            mask=is_row[:, None] & (channel < COLUMNS)[None, :], other=0.0,
        )  # fmt: skip
        d_x = tl.dot(d, weight, d_x, input_precision="ieee")
        weight = tl.load(
            decoder + to[:, None] * RANK + latent[None, :],
            mask=is_row[:, None] & (latent < RANK)[None, :], other=0.0,
        )  # fmt: skip
        d_h = tl.dot(d, weight, d_h, input_precision="ieee")
    return d_x, d_h


@jit
def back_to_input(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, blocks0, blocks1, blocks2, decoder0, decoder1, decoder2, d_x, d_h, tokens, n,
    ROWS0: tl.constexpr, ROWS1: tl.constexpr, ROWS2: tl.constexpr, COUNT: tl.constexpr,
    COLUMNS: tl.constexpr, WIDE: tl.constexpr, RANK: tl.constexpr, DEEP: tl.constexpr,
    TOKENS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Gradients of some tokens' inputs, through the blocks, and of their h, of all siblings."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    real = token < tokens
    channel, latent = tl.arange(0, WIDE), tl.arange(0, DEEP)
    d_h0 = tl.zeros((TOKENS, DEEP), tl.float32)
    d_h1 = tl.zeros((TOKENS, DEEP), tl.float32)
    d_h2 = tl.zeros((TOKENS, DEEP), tl.float32)
    for block in range(n):
        total = tl.zeros((TOKENS, WIDE), tl.float32)
        total, d_h0 = _through(
            d_y0, blocks0, decoder0, total, d_h0, token, real, block, n, channel, latent,
            ROWS0, COLUMNS, RANK, STEP,
        )  # fmt: skip
        if COUNT > 1:
            total, d_h1 = _through(
                d_y1, blocks1, decoder1, total, d_h1, token, real, block, n, channel, latent,
                ROWS1, COLUMNS, RANK, STEP,
            )  # fmt: skip
        if COUNT > 2:
            total, d_h2 = _through(
                d_y2, blocks2, decoder2, total, d_h2, token, real, block, n, channel, latent,
                ROWS2, COLUMNS, RANK, STEP,
            )  # fmt: skip
        at = d_x + token[:, None] * (n * COLUMNS) + block * COLUMNS + channel[None, :]
        tl.store(at, total, mask=real[:, None] & (channel < COLUMNS)[None, :])
    at = d_h + token[:, None] * (COUNT * RANK) + latent[None, :]
    inside = real[:, None] & (latent < RANK)[None, :]
    tl.store(at, d_h0, mask=inside)
    if COUNT > 1:
        tl.store(at + RANK, d_h1, mask=inside)
    if COUNT > 2:
        tl.store(at + 2 * RANK, d_h2, mask=inside)


@jit
def back_to_weights(  # type: ignore[no-untyped-def]
    d_y, x, h, d_blocks, d_decoder, tokens, n, rows, h_stride, span,
    COLUMNS: tl.constexpr, WIDE: tl.constexpr, RANK: tl.constexpr, DEEP: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Gradients of some rows of one block and of the decoder's same rows, from one part of the tokens."""
    parts = tl.num_programs(0) // n
    block = tl.program_id(0) // parts
    row = tl.program_id(0) % parts * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1).to(tl.int64)
    to = block * rows + row
    channel, latent = tl.arange(0, WIDE), tl.arange(0, DEEP)
    is_row, is_channel, is_latent = row < rows, channel < COLUMNS, latent < RANK
    total = tl.zeros((ROWS, WIDE), tl.float32)
    total_decoder = tl.zeros((ROWS, DEEP), tl.float32)
    for first in range(0, span, TOKENS):
        token = part * span + first + tl.arange(0, TOKENS)
        real = token < tokens
        d = tl.load(
            d_y + token[:, None] * (n * rows) + to[None, :], mask=real[:, None] & is_row[None, :], other=0.0
        )
        d = tl.trans(d)
        at = x + token[:, None] * (n * COLUMNS) + block * COLUMNS + channel[None, :]
        seen = tl.load(at, mask=real[:, None] & is_channel[None, :], other=0.0)
        total = tl.dot(d, seen, total, input_precision="ieee")
        at = h + token[:, None] * h_stride + latent[None, :]
        seen = tl.load(at, mask=real[:, None] & is_latent[None, :], other=0.0)
        total_decoder = tl.dot(d, seen, total_decoder, input_precision="ieee")
    at = part * (n * rows) + to
    tl.store(
        d_blocks + at[:, None] * COLUMNS + channel[None, :], total,
        mask=is_row[:, None] & is_channel[None, :],
    )  # fmt: skip
    tl.store(
        d_decoder + at[:, None] * RANK + latent[None, :], total_decoder,
        mask=is_row[:, None] & is_latent[None, :],
    )  # fmt: skip
