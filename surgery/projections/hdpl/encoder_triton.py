"""From the input to the latents and their noisy samples in one Triton kernel: the encoders' products are
sampled in registers, and written for the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor

from surgery.kernels import block_size, ceil_div, jit, jit_once, tl
from surgery.projections.hdpl.kl import LN2
from surgery.projections.hdpl.latent_triton import ROUNDS, forward, normals, packed
from surgery.projections.hdpl.tiles import UNIT, inner, units

TOKENS = 128  # of a program
WARPS, STAGES = 8, 3
WIDEST_INPUT = 1024  # channels: of wider ones the libraries' products are the faster ones
WIDEST = 128  # latents of a sibling: a program holds all of its tokens'


def fits_encoders(x: Tensor, ranks: Sequence[int]) -> bool:
    """Whether the kernel can take these siblings, and is worth it."""
    return len(set(ranks)) == 1 and ranks[0] <= WIDEST and x.shape[1] <= WIDEST_INPUT


def encode_fused(
    x: Tensor, encoders: Tensor, bias: Tensor, seed: Tensor, ranks: Sequence[int], forms: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """(latents, h, KL sums): `encode` of `group.py` from a seed."""
    x = x.contiguous()
    tokens, width, rank = len(x), sum(ranks), ranks[0]
    latents, h = x.new_empty(tokens, 2 * width), x.new_empty(tokens, width)
    tiles = ceil_div(tokens, TOKENS)
    sums = x.new_zeros(tiles, width, dtype=torch.float32)
    write_latents[(len(ranks), tiles)](
        x, encoders, bias, seed, latents, h, sums,
        tokens, packed(forms), LN2, *units(x.shape[1], rank, width),
        TOKENS=TOKENS, LATENT=block_size(rank), INNER=inner(x), UNIT=UNIT, ALIGNED=gcd(16, rank),
        CLAMPED=1 in forms, SUMMED=any(form > 1 for form in forms), ROUNDS=ROUNDS,
        num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return latents, h, sums.sum(0)


@jit
def apart(x, TOKENS: tl.constexpr, LATENT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The four tokens of each group apart (tokens / 4, latents): their noise are the words of one number."""
    x = tl.permute(tl.reshape(x, (TOKENS // 4, 4, LATENT)), (0, 2, 1))
    even, odd = tl.split(tl.reshape(x, (TOKENS // 4, LATENT, 2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@jit_once("tokens", "forms", "columns", "rank", "width")
def write_latents(  # type: ignore[no-untyped-def]
    x, encoders, bias, seed, latents, h, sums, tokens, forms, ln2, columns, rank, width,
    TOKENS: tl.constexpr, LATENT: tl.constexpr, INNER: tl.constexpr, UNIT: tl.constexpr,
    ALIGNED: tl.constexpr, CLAMPED: tl.constexpr, SUMMED: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Some tokens of one sibling."""
    sibling = tl.program_id(0)
    columns, rank, width = columns * UNIT, rank * UNIT, width * UNIT
    form = (forms >> (2 * sibling)) & 3
    token = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    real = (token < tokens)[:, None]
    latent = tl.arange(0, LATENT)
    exists = latent < rank
    channel = tl.multiple_of(sibling * rank, ALIGNED) + latent
    mu = tl.zeros((TOKENS, LATENT), tl.float32)
    logvar = tl.zeros((TOKENS, LATENT), tl.float32)
    for first in range(0, columns, INNER):
        column = first + tl.arange(0, INNER)
        is_column = column < columns
        a = tl.load(x + token[:, None] * columns + column[None, :], mask=real & is_column[None, :], other=0.0)
        at = encoders + channel[None, :] * columns + column[:, None]
        there = is_column[:, None] & exists[None, :]
        mu = tl.dot(a, tl.load(at, mask=there, other=0.0), mu, input_precision="ieee")
        at += width * columns
        logvar = tl.dot(a, tl.load(at, mask=there, other=0.0), logvar, input_precision="ieee")
    mu += tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    logvar += tl.load(bias + width + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    # as they are kept, for the gradient to find the same samples
    mu, logvar = mu.to(latents.dtype.element_ty), logvar.to(latents.dtype.element_ty)
    inside = real & exists[None, :]
    at = latents + token[:, None] * (2 * width) + channel[None, :]
    tl.store(at, mu, mask=inside)
    tl.store(at + width, logvar, mask=inside)
    mu = tl.where(inside, mu.to(tl.float32), 0.0)
    logvar = tl.where(inside, logvar.to(tl.float32), 0.0)
    m0, m1, m2, m3 = apart(mu, TOKENS, LATENT)
    v0, v1, v2, v3 = apart(logvar, TOKENS, LATENT)
    group = tl.program_id(1) * (TOKENS // 4) + tl.arange(0, TOKENS // 4)
    n0, n1, n2, n3 = normals(seed, group, channel, ROUNDS)
    token = group.to(tl.int64) * 4
    total = tl.zeros((TOKENS // 4, LATENT), tl.float32)
    clamped = tl.zeros((TOKENS // 4,), tl.float32)
    total, clamped = forward(
        m0, v0, h, n0, token, channel, exists, total, clamped, tokens, width, ln2, CLAMPED, SUMMED
    )
    total, clamped = forward(
        m1, v1, h, n1, token + 1, channel, exists, total, clamped, tokens, width, ln2, CLAMPED, SUMMED
    )
    total, clamped = forward(
        m2, v2, h, n2, token + 2, channel, exists, total, clamped, tokens, width, ln2, CLAMPED, SUMMED
    )
    total, clamped = forward(
        m3, v3, h, n3, token + 3, channel, exists, total, clamped, tokens, width, ln2, CLAMPED, SUMMED
    )
    at = sums + tl.program_id(1).to(tl.int64) * width + channel
    if SUMMED:
        tl.store(at, tl.sum(total, 0), mask=exists & (form > 1))
    if CLAMPED:
        tl.store(at, tl.sum(clamped, 0) + latent * 0.0, mask=(latent == 0) & (form == 1))
