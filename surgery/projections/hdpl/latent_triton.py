"""The latents' step of all siblings as one Triton kernel, and one for its gradient (see `latent.py`).

Noise is made where it is used, and made again for the gradient: Philox4x32-7 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), a counter-based generator. Its key is the seed, its counter (token // 4,
latent among those of all siblings, 0, 0), and its four words belong to four neighbouring tokens: two pairs of
normals by Box and Muller's transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor

from surgery.kernels import AVAILABLE, block_size, ceil_div, jit, tl
from surgery.projections.hdpl.kl import LN2

ELEMENTS = 1024  # of a program for each of the four words
WIDEST = 1024  # latents of a sibling: a program holds all of a token's
MOST = 4  # siblings
ROUNDS = 7  # of Philox: the fewest that pass BigCrush (Salmon et al. 2011, table 2); ten are a margin


def fits_latents(device: torch.device, dtype: torch.dtype, ranks: Sequence[int]) -> bool:
    """Whether the kernels can take latents like these: CUDA, a dtype they know, rows within registers."""
    known = device.type == "cuda" and dtype in (torch.bfloat16, torch.float32)
    return AVAILABLE and known and max(ranks) <= WIDEST and len(ranks) <= MOST


def draw_seed(device: torch.device) -> Tensor:
    """A key for all noise of one step, (1,) of int64, from the device's own generator: nothing waits."""
    return torch.randint(2**62, (1,), device=device)


def sample_fused(
    latents: Tensor, seed: Tensor, ranks: Sequence[int], forms: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """`sample` of `latent.py` from a seed."""
    latents = latents.contiguous()
    width = sum(ranks)
    h = latents.new_empty(len(latents), width)
    sums = latents.new_zeros(_programs(latents, ranks), width, dtype=torch.float32)
    _launch(sample_latents, latents, seed, h, sums, ranks=ranks, forms=forms)
    return h, sums.sum(0)


def sample_back_fused(
    latents: Tensor,
    seed: Tensor,
    ranks: Sequence[int],
    forms: Sequence[int],
    d_h: Tensor,
    d_sums: Tensor,
    spend: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """`sample_back` of `latent.py` from a seed. h takes the place of its gradient."""
    latents, d_h = latents.contiguous(), d_h.contiguous()
    d_latents = latents if spend else torch.empty_like(latents)
    d_bias = latents.new_zeros(_programs(latents, ranks), latents.shape[1], dtype=torch.float32)
    _launch(
        sample_latents_back, latents, seed, d_h, d_sums.contiguous(), d_latents, d_bias,
        ranks=ranks, forms=forms,
    )  # fmt: skip
    return d_latents, d_h, d_bias.sum(0).to(latents.dtype)


def _groups(ranks: Sequence[int]) -> int:
    """Groups of four tokens in a program."""
    return max(1, ELEMENTS // block_size(max(ranks)))


def _programs(latents: Tensor, ranks: Sequence[int]) -> int:
    return ceil_div(len(latents), 4 * _groups(ranks))


def _launch(
    kernel: Any, latents: Tensor, *tensors: Tensor, ranks: Sequence[int], forms: Sequence[int]
) -> None:
    """A program for each sibling of each few tokens."""
    if not len(latents):
        return
    rank = [*ranks, 0, 0, 0, 0]
    kernel[(_programs(latents, ranks), len(ranks))](
        latents, *tensors, len(latents), sum(ranks), rank[0], rank[1], rank[2], rank[3],
        sum(form << 2 * place for place, form in enumerate(forms)), LN2,
        GROUPS=_groups(ranks),
        WIDTH=block_size(max(ranks)),
        ALIGNED=min(16, gcd(16, *ranks)),
        CLAMPED=1 in forms,
        SUMMED=any(form > 1 for form in forms),
        ROUNDS=ROUNDS,
        num_warps=8 if max(ranks) > 256 else 4,
        num_stages=1,
    )  # fmt: skip


@jit
def _place(  # type: ignore[no-untyped-def]
    rank0, rank1, rank2, rank3, forms, GROUPS: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr
):
    """This program's (groups of four tokens, latents within the sibling, which exist, the first's place,
    the form of its KL)."""
    sibling = tl.program_id(1)
    rank = tl.where(sibling == 0, rank0, tl.where(sibling == 1, rank1, tl.where(sibling == 2, rank2, rank3)))
    first = (
        tl.where(sibling > 0, rank0, 0) + tl.where(sibling > 1, rank1, 0) + tl.where(sibling > 2, rank2, 0)
    )
    latent = tl.arange(0, WIDTH)
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    return group, latent, latent < rank, tl.multiple_of(first, ALIGNED), (forms >> (2 * sibling)) & 3


@jit
def _box_muller(first, second):  # type: ignore[no-untyped-def]
    """Two independent normals of two random words. 23 bits of the first are exact in float32, and the half
    added keeps the logarithm from zero. Of the second, two bits say which quarter turn, the rest where within
    an eighth to either side of it: there a few terms of the series are as good as a library's sine, which
    spends most of its time on angles that can't occur."""
    uniform = ((first >> 9).to(tl.float32) + 0.5) * (1.0 / 8388608)
    radius = tl.sqrt(-2.0 * tl.log(uniform))
    angle = (((second << 2) >> 9).to(tl.float32) * (1.0 / 8388608) - 0.5) * 1.5707963267948966
    square = angle * angle
    sine = angle + angle * square * (-1.0 / 6 + square * (1.0 / 120 + square * (-1.0 / 5040)))
    cosine = 1.0 + square * (-1.0 / 2 + square * (1.0 / 24 + square * (-1.0 / 720 + square * (1.0 / 40320))))
    quarter = second >> 30
    odd = (quarter & 1) != 0
    x, y = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    return radius * tl.where((quarter == 1) | (quarter == 2), -x, x), radius * tl.where(quarter >= 2, -y, y)


@jit
def _normals(seed, group, latent, ROUNDS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Noise of the four tokens of each group, four tensors (groups, latents)."""
    none = group[:, None] * 0 + latent[None, :] * 0
    a, b, c, d = tl.philox(tl.load(seed), group[:, None] + none, latent[None, :] + none, none, none, ROUNDS)
    a, b = _box_muller(a, b)
    c, d = _box_muller(c, d)
    return a, b, c, d


@jit
def _load(latents, token, channel, inside, width):  # type: ignore[no-untyped-def]
    """(mu, sigma, KL) of these tokens; KL is zero where nothing is inside."""
    at = latents + token[:, None] * (2 * width) + channel[None, :]
    mu = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    logvar = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    sigma = tl.exp(0.5 * logvar)
    return mu, sigma, 0.5 * (mu * mu + sigma * sigma - logvar - 1.0)


@jit
def _forward(  # type: ignore[no-untyped-def]
    latents, h, noise, token, channel, exists, total, clamped, tokens, width, ln2,
    CLAMPED: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """Writes h of these tokens. Adds their KL to `total` (groups, latents), and to `clamped` (groups,) what
    of a token's is left by the clamp."""
    inside = (token < tokens)[:, None] & exists[None, :]
    mu, sigma, kl = _load(latents, token, channel, inside, width)
    z = mu + noise * sigma
    tl.store(h + token[:, None] * width + channel[None, :], z * tl.sigmoid(z), mask=inside)
    if SUMMED:
        total += kl
    if CLAMPED:
        clamped += tl.minimum(tl.sum(kl, 1), ln2)
    return total, clamped


@jit
def sample_latents(  # type: ignore[no-untyped-def]
    latents, seed, h, sums, tokens, width, rank0, rank1, rank2, rank3, forms, ln2,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr,
    CLAMPED: tl.constexpr, SUMMED: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    group, latent, exists, first, form = _place(rank0, rank1, rank2, rank3, forms, GROUPS, WIDTH, ALIGNED)
    channel = first + latent
    a, b, c, d = _normals(seed, group, channel, ROUNDS)
    token = group.to(tl.int64) * 4
    total = tl.zeros((GROUPS, WIDTH), tl.float32)
    clamped = tl.zeros((GROUPS,), tl.float32)
    total, clamped = _forward(
        latents, h, a, token, channel, exists, total, clamped, tokens, width, ln2, CLAMPED, SUMMED
    )
    total, clamped = _forward(
        latents, h, b, token + 1, channel, exists, total, clamped, tokens, width, ln2, CLAMPED, SUMMED
    )
    total, clamped = _forward(
        latents, h, c, token + 2, channel, exists, total, clamped, tokens, width, ln2, CLAMPED, SUMMED
    )
    total, clamped = _forward(
        latents, h, d, token + 3, channel, exists, total, clamped, tokens, width, ln2, CLAMPED, SUMMED
    )
    at = sums + tl.program_id(0).to(tl.int64) * width + channel
    if SUMMED:
        tl.store(at, tl.sum(total, 0), mask=exists & (form > 1))
    if CLAMPED:
        tl.store(at, tl.sum(clamped, 0) + latent * 0.0, mask=(latent == 0) & (form == 1))


@jit
def _backward(  # type: ignore[no-untyped-def]
    latents, d_h, d_latents, noise, token, channel, exists, weight, total, total_logvar, tokens, width, ln2,
    form, CLAMPED: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of these tokens' mu and logvar, and adds them to the totals (groups, latents)."""
    inside = (token < tokens)[:, None] & exists[None, :]
    mu, sigma, kl = _load(latents, token, channel, inside, width)
    z = mu + noise * sigma
    gate = tl.sigmoid(z)
    at = d_h + token[:, None] * width + channel[None, :]
    d_mu = tl.load(at, mask=inside, other=0.0).to(tl.float32) * gate * (1.0 + z * (1.0 - gate))
    tl.store(at, z * gate, mask=inside)
    d_logvar = d_mu * noise * sigma
    if CLAMPED:
        live = (form != 1) | (tl.sum(kl, 1) <= ln2)
        factor = tl.where(live[:, None], weight[None, :], 0.0)
        d_mu += factor * mu
        d_logvar += factor * (sigma * sigma - 1.0)
    elif SUMMED:
        d_mu += weight[None, :] * mu
        d_logvar += weight[None, :] * (sigma * sigma - 1.0)
    d_logvar *= 0.5
    at = d_latents + token[:, None] * (2 * width) + channel[None, :]
    tl.store(at, d_mu, mask=inside)
    tl.store(at + width, d_logvar, mask=inside)
    return total + d_mu, total_logvar + d_logvar


@jit
def sample_latents_back(  # type: ignore[no-untyped-def]
    latents, seed, d_h, d_sums, d_latents, d_bias, tokens, width, rank0, rank1, rank2, rank3, forms, ln2,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr,
    CLAMPED: tl.constexpr, SUMMED: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Gradients of mu and logvar, and their sums over this program's tokens; h is written over its
    gradient."""
    group, latent, exists, first, form = _place(rank0, rank1, rank2, rank3, forms, GROUPS, WIDTH, ALIGNED)
    channel = first + latent
    a, b, c, d = _normals(seed, group, channel, ROUNDS)
    # of a clamped sum only the first latent's place holds anything, and its gradient is for all
    source = tl.where(form == 1, first, channel)
    weight = tl.load(d_sums + source, mask=exists & (form != 0), other=0.0).to(tl.float32)
    token = group.to(tl.int64) * 4
    mu = tl.zeros((GROUPS, WIDTH), tl.float32)
    logvar = tl.zeros((GROUPS, WIDTH), tl.float32)
    mu, logvar = _backward(
        latents, d_h, d_latents, a, token, channel, exists, weight, mu, logvar, tokens, width, ln2, form,
        CLAMPED, SUMMED,
    )  # fmt: skip
    mu, logvar = _backward(
        latents, d_h, d_latents, b, token + 1, channel, exists, weight, mu, logvar, tokens, width, ln2, form,
        CLAMPED, SUMMED,
    )  # fmt: skip
    mu, logvar = _backward(
        latents, d_h, d_latents, c, token + 2, channel, exists, weight, mu, logvar, tokens, width, ln2, form,
        CLAMPED, SUMMED,
    )  # fmt: skip
    mu, logvar = _backward(
        latents, d_h, d_latents, d, token + 3, channel, exists, weight, mu, logvar, tokens, width, ln2, form,
        CLAMPED, SUMMED,
    )  # fmt: skip
    at = d_bias + tl.program_id(0).to(tl.int64) * (2 * width) + channel
    tl.store(at, tl.sum(mu, 0), mask=exists)
    tl.store(at + width, tl.sum(logvar, 0), mask=exists)
