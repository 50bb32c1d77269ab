"""From the outputs' gradients to those of the latents in one Triton kernel: through decoders, silu and
sampling. The gradients of h never leave the registers."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor

from surgery.kernels import block_size, ceil_div, jit, jit_once, tl
from surgery.projections.hdpl.kl import LN2
from surgery.projections.hdpl.latent_triton import ROUNDS, backward, normals, packed
from surgery.projections.hdpl.tiles import MOST, UNIT, choose, filled, inner, units

TOKENS = 128  # of a program
LONGEST = 768  # rows of a decoder: of longer ones the libraries' products are the faster ones
WIDEST = 128  # latents of a sibling: a program holds all of its tokens'


def fits_decoders(decoders: Sequence[Tensor]) -> bool:
    """Whether the kernel can take these siblings, and is worth it."""
    ranks = {decoder.shape[1] for decoder in decoders}
    short = max(len(decoder) for decoder in decoders) <= LONGEST
    return short and len(decoders) <= MOST and len(ranks) == 1 and max(ranks) <= WIDEST


def latents_back_fused(
    d_ys: Sequence[Tensor],
    decoders: Sequence[Tensor],
    latents: Tensor,
    seed: Tensor,
    forms: Sequence[int],
    d_sums: Tensor,
    spend: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`latents_back` of `latent.py` from a seed."""
    rank, tokens, width = decoders[0].shape[1], len(latents), latents.shape[1] // 2
    d_latents = latents if spend else torch.empty_like(latents)
    h = latents.new_empty(tokens, width)
    tiles = ceil_div(tokens, TOKENS)
    d_bias = latents.new_empty(tiles, 2 * width, dtype=torch.float32)
    rows = [len(decoder) for decoder in decoders] + [0] * (MOST - len(decoders))
    back_to_latents[(len(decoders), tiles)](
        *filled(d_ys), *filled(decoders), latents, seed, d_sums.contiguous(), d_latents, h, d_bias,
        tokens, packed(forms), LN2, *units(*rows, rank, width),
        TOKENS=TOKENS, LATENT=block_size(rank), INNER=inner(h), UNIT=UNIT, ALIGNED=gcd(16, rank),
        CLAMPED=1 in forms, SUMMED=any(form > 1 for form in forms), ROUNDS=ROUNDS,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    return d_latents, h, d_bias.sum(0).to(latents.dtype)


@jit
def _apart(x, TOKENS: tl.constexpr, LATENT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The four tokens of each group apart (tokens / 4, latents): their noise are the words of one number."""
    x = tl.permute(tl.reshape(x, (TOKENS // 4, 4, LATENT)), (0, 2, 1))
    even, odd = tl.split(tl.reshape(x, (TOKENS // 4, LATENT, 2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@jit_once("tokens", "forms", "rows0", "rows1", "rows2", "rank", "width")
def back_to_latents(  # type: ignore[no-untyped-def]
    d_y0, d_y1, d_y2, decoder0, decoder1, decoder2, latents, seed, d_sums, d_latents, h, d_bias,
    tokens, forms, ln2, rows0, rows1, rows2, rank, width,
    TOKENS: tl.constexpr, LATENT: tl.constexpr, INNER: tl.constexpr, UNIT: tl.constexpr,
    ALIGNED: tl.constexpr, CLAMPED: tl.constexpr, SUMMED: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Some tokens of one sibling."""
    sibling = tl.program_id(0)
    d_y = choose(sibling, d_y0, d_y1, d_y2)
    decoder = choose(sibling, decoder0, decoder1, decoder2)
    rows = tl.where(sibling == 0, rows0, tl.where(sibling == 1, rows1, rows2)) * UNIT
    rank, width = rank * UNIT, width * UNIT
    form = (forms >> (2 * sibling)) & 3
    token = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    real = (token < tokens)[:, None]
    latent = tl.arange(0, LATENT)
    exists = latent < rank
    d = tl.zeros((TOKENS, LATENT), tl.float32)
    for first in range(0, rows, INNER):
        row = first + tl.arange(0, INNER)
        a = tl.load(d_y + token[:, None] * rows + row[None, :], mask=real & (row < rows)[None, :], other=0.0)
        b = tl.load(
            decoder + row[:, None] * rank + latent[None, :],
            mask=(row < rows)[:, None] & exists[None, :], other=0.0,
        )  # fmt: skip
        d = tl.dot(a, b, d, input_precision="ieee")
    d0, d1, d2, d3 = _apart(d, TOKENS, LATENT)
    channel = tl.multiple_of(sibling * rank, ALIGNED) + latent
    group = tl.program_id(1) * (TOKENS // 4) + tl.arange(0, TOKENS // 4)
    n0, n1, n2, n3 = normals(seed, group, channel, ROUNDS)
    # of a clamped sum only the first latent's place holds anything, and its gradient is for all
    source = tl.where(form == 1, sibling * rank, channel)
    weight = tl.load(d_sums + source, mask=exists & (form != 0), other=0.0).to(tl.float32)
    token = group.to(tl.int64) * 4
    mu = tl.zeros((TOKENS // 4, LATENT), tl.float32)
    logvar = tl.zeros((TOKENS // 4, LATENT), tl.float32)
    mu, logvar = backward(
        latents, d0, h, d_latents, n0, token, channel, exists, weight, mu, logvar, tokens, width,
        ln2, form, CLAMPED, SUMMED,
    )  # fmt: skip
    mu, logvar = backward(
        latents, d1, h, d_latents, n1, token + 1, channel, exists, weight, mu, logvar, tokens, width,
        ln2, form, CLAMPED, SUMMED,
    )  # fmt: skip
    mu, logvar = backward(
        latents, d2, h, d_latents, n2, token + 2, channel, exists, weight, mu, logvar, tokens, width,
        ln2, form, CLAMPED, SUMMED,
    )  # fmt: skip
    mu, logvar = backward(
        latents, d3, h, d_latents, n3, token + 3, channel, exists, weight, mu, logvar, tokens, width,
        ln2, form, CLAMPED, SUMMED,
    )  # fmt: skip
    at = d_bias + tl.program_id(1).to(tl.int64) * (2 * width) + channel
    tl.store(at, tl.sum(mu, 0), mask=exists)
    tl.store(at + width, tl.sum(logvar, 0), mask=exists)
