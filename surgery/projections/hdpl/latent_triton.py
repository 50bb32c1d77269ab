"""Sampling of the latents of all siblings as one Triton kernel, and one for its gradient (see `latent.py`).

Noise is generated where it is used, and again for the gradient: Philox4x32-7 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), a counter-based generator. Its key is the seed, its counter (token // 4,
latent among those of all siblings, 0, 0), and its four words belong to four neighbouring tokens: two pairs of
normals by the Box-Muller transform.

Functions are the device's approximations with errors of about 1e-6: the accurate ones take as long as reading
and writing the latents.

Why not `torch.randn`: it writes the noise to memory, where it would have to stay until the gradient is
computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor

from surgery.ops.fast_math import cos, divide, exp2, log2, sin
from surgery.ops.kernels import AVAILABLE, block_size, ceil_div, jit, jit_once, tl
from surgery.projections.hdpl.kl import FREE_BITS, LN2, Terms
from surgery.projections.hdpl.tiles import pad_args, select4

WIDEST = 1024  # latents of a sibling, at most: a program holds all of a token's
MOST = 4  # siblings per launch
ROUNDS = 7  # of Philox: the minimum that passes BigCrush (Salmon et al. 2011, table 2); ten have a margin


@dataclass(frozen=True)
class Sharing:
    """Division of a sibling's latents among programs.

    Attributes:
        elements: per iteration of a program and word of the random numbers.
        programs: maximal number of programs, each of which has its own sums.
        warps: per program.
    """

    elements: int
    programs: int
    warps: int

    def groups(self, ranks: Sequence[int]) -> int:
        """Return the groups of four tokens per iteration."""
        return max(1, self.elements // block_size(max(ranks)))

    def count(self, tokens: int, ranks: Sequence[int]) -> int:
        """Return the number of programs of a sibling."""
        return min(self.programs, ceil_div(tokens, 4 * self.groups(ranks)))


FORWARD, BACKWARD = Sharing(1024, 128, warps=8), Sharing(512, 256, warps=4)


def fits_latents(device: torch.device, dtype: torch.dtype, ranks: Sequence[int]) -> bool:
    """Return whether the kernels support such latents: CUDA, bfloat16 or float32, rows within registers."""
    fits_dtype = device.type == "cuda" and dtype in (torch.bfloat16, torch.float32)
    return AVAILABLE and fits_dtype and max(ranks) <= WIDEST and len(ranks) <= MOST


def alignment(ranks: Sequence[int]) -> int:
    """Return a common divisor, up to 16, of the indices of every sibling's first latent."""
    return gcd(16, *ranks)


def draw_seed(device: torch.device) -> Tensor:
    """Draw a key for a step's noise, (1,) of int64, from the device's generator, without synchronising."""
    return torch.randint(2**62, (1,), device=device)


def sample_fused(
    latents: Tensor, seed: Tensor, ranks: Sequence[int], terms: Terms
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `sample` of `latent.py` with noise from a seed."""
    latents = latents.contiguous()
    width = sum(ranks)
    h = latents.new_empty(len(latents), width)
    loss, d_penalty = (latents.new_empty(size, dtype=torch.float32) for size in ((), width))
    partial = latents.new_empty(FORWARD.count(len(latents), ranks), width, dtype=torch.float32)
    _launch(sample_latents, FORWARD, latents, seed, h, partial, ranks=ranks, terms=terms)
    if terms.wanted and len(latents):
        add_up_kl[(1,)](
            partial, loss, d_penalty, len(partial), len(latents), width, *pad_args(ranks, MOST), terms.code,
            *pad_args(terms.weights, MOST), FREE_BITS,
            ROWS=max(1, 8192 // block_size(width)), WIDTH=block_size(width), num_warps=16, num_stages=1,
        )  # fmt: skip
    else:
        loss.zero_()
    return h, loss, d_penalty


def sample_back_fused(
    latents: Tensor,
    seed: Tensor,
    ranks: Sequence[int],
    terms: Terms,
    d_h: Tensor,
    d_loss: Tensor,
    d_penalty: Tensor,
    inplace: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `sample_back` of `latent.py` with noise from a seed. Overwrites `d_h` with h."""
    latents, d_h = latents.contiguous(), d_h.contiguous()
    d_latents = latents if inplace else torch.empty_like(latents)
    d_bias = latents.new_empty(BACKWARD.count(len(latents), ranks), latents.shape[1], dtype=torch.float32)
    _launch(
        sample_latents_back, BACKWARD, latents, seed, d_h, d_loss, d_penalty, d_latents, d_bias,
        ranks=ranks, terms=terms,
    )  # fmt: skip
    return d_latents, d_h, d_bias


def _launch(
    kernel: Any, sharing: Sharing, latents: Tensor, *tensors: Tensor, ranks: Sequence[int], terms: Terms
) -> None:
    if not len(latents):
        return
    kernel[(sharing.count(len(latents), ranks), len(ranks))](
        latents, *tensors, len(latents), sum(ranks), *pad_args(ranks, MOST), terms.code, LN2, 0,
        GROUPS=sharing.groups(ranks),
        WIDTH=block_size(max(ranks)),
        ALIGNED=alignment(ranks),
        CLAMPED=terms.clamped,
        SUMMED=terms.summed,
        ROUNDS=ROUNDS,
        num_warps=sharing.warps,
        num_stages=1,
    )  # fmt: skip


@jit
def _sibling_columns(  # type: ignore[no-untyped-def]
    sibling, rank0, rank1, rank2, rank3, forms, WIDTH: tl.constexpr, ALIGNED: tl.constexpr
):
    """Return a sibling's (latents, mask of existing ones, first latent among all, form of its KL)."""
    rank = select4(sibling, rank0, rank1, rank2, rank3)
    first = select4(sibling, 0, rank0, rank0 + rank1, rank0 + rank1 + rank2)
    latent = tl.arange(0, WIDTH)
    return latent, latent < rank, tl.multiple_of(first, ALIGNED), (forms >> (2 * sibling)) & 3


@jit
def _philox(seed, a, b, ROUNDS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return four words for the counter (a, b, 0, 0). A 64-bit product gives both halves at once."""
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    a, b = a.to(tl.uint32), b.to(tl.uint32)
    c, d = a * 0, a * 0
    for _ in tl.static_range(ROUNDS):
        first, second = a.to(tl.uint64) * 0xD2511F53, c.to(tl.uint64) * 0xCD9E8D57
        a, b = (second >> 32).to(tl.uint32) ^ b ^ low, second.to(tl.uint32)
        c, d = (first >> 32).to(tl.uint32) ^ d ^ high, first.to(tl.uint32)
        low, high = low + 0x9E3779B9, high + 0xBB67AE85
    return a, b, c, d


@jit
def _box_muller(first, second):  # type: ignore[no-untyped-def]
    """Return two independent normals from two random words.

    The added half avoids the logarithm of zero; `abs` covers logarithms approximated slightly above zero.
    """
    uniform = first.to(tl.float32) * (1.0 / 4294967296) + (0.5 / 4294967296)
    radius = tl.sqrt(tl.abs(log2(uniform)) * 1.3862943611198906)  # 2 ln 2
    angle = second.to(tl.int32, bitcast=True).to(tl.float32) * (3.141592653589793 / 2147483648)
    return radius * cos(angle), radius * sin(angle)


@jit
def _normals(seed, group, latent, like, zero, ROUNDS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the noise of the four tokens of each group, four tensors (groups, latents).

    `like` is a tensor loaded for the same elements, and `zero` is 0 without the compiler knowing it. Their
    combination makes the compiler generate the noise in the threads that need it, instead of passing it
    through shared memory.
    """
    none = like.to(tl.int32) & zero
    a, b, c, d = _philox(seed, group[:, None] + none, latent[None, :] + none, ROUNDS)
    a, b = _box_muller(a, b)
    c, d = _box_muller(c, d)
    return a, b, c, d


@jit
def _read(latents, token, channel, exists, tokens, width):  # type: ignore[no-untyped-def]
    """Return (offsets of these tokens' h, mask of existing elements, mu, logvar)."""
    at, inside = token[:, None] * width + channel[None, :], (token < tokens)[:, None] & exists[None, :]
    latents += _of_latents(at, token, width)
    mu = tl.load(latents, mask=inside, other=0.0)
    return at, inside, mu, tl.load(latents + width, mask=inside, other=0.0)


@jit
def _of_latents(at, token, width):  # type: ignore[no-untyped-def]
    """Return the offsets of mu for these offsets of h; logvar is `width` elements later."""
    return at + token[:, None] * width


@jit
def _latents(mu, logvar):  # type: ignore[no-untyped-def]
    """Return (mu, sigma, sigma^2 - 1, twice the KL); the KL is zero if mu and logvar are."""
    mu, logvar = mu.to(tl.float32), logvar.to(tl.float32)
    sigma = exp2(logvar * 0.7213475204444817)  # 1 / (2 ln 2)
    excess = sigma * sigma - 1.0
    return mu, sigma, excess, mu * mu + (excess - logvar)


@jit
def _gate(z):  # type: ignore[no-untyped-def]
    """Return sigmoid(z)."""
    return divide(1.0, 1.0 + exp2(z * -1.4426950408889634))


@jit
def _forward(  # type: ignore[no-untyped-def]
    h, at, inside, mu, logvar, noise, total, clamped, ln2, CLAMPED: tl.constexpr, SUMMED: tl.constexpr
):
    """Write h of some tokens, and accumulate twice their KL.

    Adds to `total` (groups, latents) by latent, and to `clamped` (groups,) the clamped sum of each token.
    """
    mu, sigma, _, kl = _latents(mu, logvar)
    z = mu + noise * sigma
    tl.store(h + at, z * _gate(z), mask=inside)
    if SUMMED:
        total += kl
    if CLAMPED:
        clamped += tl.minimum(tl.sum(kl, 1), 2.0 * ln2, tl.PropagateNan.ALL)
    return total, clamped


@jit
def sample_latents(  # type: ignore[no-untyped-def]
    latents, seed, h, partial, tokens, width, rank0, rank1, rank2, rank3, forms, ln2, zero,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr,
    CLAMPED: tl.constexpr, SUMMED: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Compute h, and the KL of this program's tokens by latent, or the clamped sums at the first latent."""
    latent, exists, first, form = _sibling_columns(
        tl.program_id(1), rank0, rank1, rank2, rank3, forms, WIDTH, ALIGNED
    )
    channel = first + latent
    key = tl.load(seed)
    total = tl.zeros((GROUPS, WIDTH), tl.float32)
    clamped = tl.zeros((GROUPS,), tl.float32)
    for start in range(tl.program_id(0) * GROUPS, tl.cdiv(tokens, 4), tl.num_programs(0) * GROUPS):
        group = start + tl.arange(0, GROUPS)
        token = group.to(tl.int64) * 4
        # all four tokens are loaded before the first is processed
        at0, real0, mu0, logvar0 = _read(latents, token, channel, exists, tokens, width)
        at1, real1, mu1, logvar1 = _read(latents, token + 1, channel, exists, tokens, width)
        at2, real2, mu2, logvar2 = _read(latents, token + 2, channel, exists, tokens, width)
        at3, real3, mu3, logvar3 = _read(latents, token + 3, channel, exists, tokens, width)
        a, b, c, d = _normals(key, group, channel, mu0, zero, ROUNDS)
        total, clamped = _forward(h, at0, real0, mu0, logvar0, a, total, clamped, ln2, CLAMPED, SUMMED)
        total, clamped = _forward(h, at1, real1, mu1, logvar1, b, total, clamped, ln2, CLAMPED, SUMMED)
        total, clamped = _forward(h, at2, real2, mu2, logvar2, c, total, clamped, ln2, CLAMPED, SUMMED)
        total, clamped = _forward(h, at3, real3, mu3, logvar3, d, total, clamped, ln2, CLAMPED, SUMMED)
    at = partial + tl.program_id(0) * width + channel
    if SUMMED:
        tl.store(at, 0.5 * tl.sum(total, 0), mask=exists & (form > 1))
    if CLAMPED:
        tl.store(at, 0.5 * tl.sum(clamped, 0) + latent * 0.0, mask=(latent == 0) & (form == 1))


@jit_once("programs", "tokens", "width", "rank0", "rank1", "rank2", "rank3", "forms")
def add_up_kl(  # type: ignore[no-untyped-def]
    partial, loss, d_penalty, programs, tokens, width, rank0, rank1, rank2, rank3, forms,
    weight0, weight1, weight2, weight3, free_bits,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute `penalty` of `kl.py` for all siblings, by one program."""
    latent, row = tl.arange(0, WIDTH), tl.arange(0, ROWS)
    second, third = rank0, rank0 + rank1  # siblings' first latents
    fourth = third + rank2
    sibling = (latent >= second).to(tl.int32) + (latent >= third) + (latent >= fourth)
    form = (forms >> (2 * sibling)) & 3
    among = tl.where(form == 1, 1, select4(sibling, rank0, rank1, rank2, rank3))  # divisor of the mean
    scale = select4(sibling, weight0, weight1, weight2, weight3) / tokens / among
    exists, floor = latent < width, tl.where(form == 3, free_bits * tokens, float("-inf"))
    # clamped sums are stored at the first latent only
    wanted = exists & ((form > 1) | ((form == 1) & (latent == select4(sibling, 0, second, third, fourth))))
    sums = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in tl.range(0, programs, ROWS, loop_unroll_factor=4):
        at = partial + (start + row)[:, None] * width + latent[None, :]
        inside = (start + row < programs)[:, None] & wanted[None, :]
        sums += tl.load(at, mask=inside, other=0.0)
    sums = tl.sum(sums, 0)
    tl.store(loss, tl.sum(tl.where(wanted, tl.maximum(sums, floor, tl.PropagateNan.ALL) * scale, 0.0), 0))
    tl.store(d_penalty + latent, tl.where((form > 0) & (sums >= floor), scale, 0.0), mask=exists)


@jit
def _backward(  # type: ignore[no-untyped-def]
    d_latents, h, token, at, inside, mu, logvar, d_h, noise, weight, total, total_logvar, width, ln2, form,
    CLAMPED: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """Write the gradients of some tokens' mu and logvar, and add them to the totals (groups, latents)."""
    mu, sigma, excess, kl = _latents(mu, logvar)
    shift = noise * sigma
    z = mu + shift
    gate = _gate(z)
    silu = z * gate
    tl.store(h + at, silu, mask=inside)
    d_mu = d_h.to(tl.float32) * (gate + silu * (1.0 - gate))  # the derivative of silu
    d_logvar = d_mu * shift
    if CLAMPED:
        live = (form != 1) | (tl.sum(kl, 1) <= 2.0 * ln2)
        factor = tl.where(live[:, None], weight[None, :], 0.0)
        d_mu += factor * mu
        d_logvar += factor * excess
    elif SUMMED:
        d_mu += weight[None, :] * mu
        d_logvar += weight[None, :] * excess
    d_logvar *= 0.5
    d_latents += _of_latents(at, token, width)
    tl.store(d_latents, d_mu, mask=inside)
    tl.store(d_latents + width, d_logvar, mask=inside)
    return total + d_mu, total_logvar + d_logvar


@jit
def back_to_latents(  # type: ignore[no-untyped-def]
    latents, seed, d_h, d_loss, d_penalty, d_latents, d_bias, sibling, begin, end, step,
    tokens, width, rank0, rank1, rank2, rank3, forms, ln2, zero,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr,
    CLAMPED: tl.constexpr, SUMMED: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a sibling's mu and logvar for some groups of four tokens.

    Writes their sums over these tokens to `d_bias`, and overwrites `d_h` with h.
    """
    latent, exists, first, form = _sibling_columns(sibling, rank0, rank1, rank2, rank3, forms, WIDTH, ALIGNED)
    channel = first + latent
    key = tl.load(seed)
    weight = tl.zeros((WIDTH,), tl.float32)
    if CLAMPED or SUMMED:
        weight += tl.load(d_penalty + channel, mask=exists, other=0.0) * tl.load(d_loss)
    mu = tl.zeros((GROUPS, WIDTH), tl.float32)
    logvar = tl.zeros((GROUPS, WIDTH), tl.float32)
    for start in tl.range(begin, end, step, num_stages=1):
        group = start + tl.arange(0, GROUPS)
        token = group.to(tl.int64) * 4
        at0, real0, mu0, logvar0 = _read(latents, token, channel, exists, tokens, width)
        at1, real1, mu1, logvar1 = _read(latents, token + 1, channel, exists, tokens, width)
        at2, real2, mu2, logvar2 = _read(latents, token + 2, channel, exists, tokens, width)
        at3, real3, mu3, logvar3 = _read(latents, token + 3, channel, exists, tokens, width)
        d_h0 = tl.load(d_h + at0, mask=real0, other=0.0)
        d_h1 = tl.load(d_h + at1, mask=real1, other=0.0)
        d_h2 = tl.load(d_h + at2, mask=real2, other=0.0)
        d_h3 = tl.load(d_h + at3, mask=real3, other=0.0)
        a, b, c, d = _normals(key, group, channel, mu0, zero, ROUNDS)
        mu, logvar = _backward(
            d_latents, d_h, token, at0, real0, mu0, logvar0, d_h0, a, weight, mu, logvar, width, ln2,
            form, CLAMPED, SUMMED,
        )  # fmt: skip
        mu, logvar = _backward(
            d_latents, d_h, token + 1, at1, real1, mu1, logvar1, d_h1, b, weight, mu, logvar, width, ln2,
            form, CLAMPED, SUMMED,
        )  # fmt: skip
        mu, logvar = _backward(
            d_latents, d_h, token + 2, at2, real2, mu2, logvar2, d_h2, c, weight, mu, logvar, width, ln2,
            form, CLAMPED, SUMMED,
        )  # fmt: skip
        mu, logvar = _backward(
            d_latents, d_h, token + 3, at3, real3, mu3, logvar3, d_h3, d, weight, mu, logvar, width, ln2,
            form, CLAMPED, SUMMED,
        )  # fmt: skip
    tl.store(d_bias + channel, tl.sum(mu, 0), mask=exists)
    tl.store(d_bias + width + channel, tl.sum(logvar, 0), mask=exists)


@jit
def sample_latents_back(  # type: ignore[no-untyped-def]
    latents, seed, d_h, d_loss, d_penalty, d_latents, d_bias, tokens, width, rank0, rank1, rank2, rank3,
    forms, ln2, zero,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr,
    CLAMPED: tl.constexpr, SUMMED: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Run `back_to_latents` for this program's share of the tokens, with its own sums."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    back_to_latents(
        latents, seed, d_h, d_loss, d_penalty, d_latents, d_bias + program * (2 * width), tl.program_id(1),
        program * GROUPS, tl.cdiv(tokens, 4), programs * GROUPS,
        tokens, width, rank0, rank1, rank2, rank3, forms, ln2, zero,
        GROUPS, WIDTH, ALIGNED, CLAMPED, SUMMED, ROUNDS,
    )  # fmt: skip
