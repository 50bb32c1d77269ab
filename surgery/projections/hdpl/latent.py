"""Sampling of the latents of all siblings: z = mu + eps sigma, h = silu(z), and the KL loss.

In plain torch, or by a CUDA kernel that generates its own noise. `latents` are (tokens, 2 width): mu of all
siblings concatenated, then their logvar; width is the sum of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.projections.hdpl.kl import LN2, REFERENCE, Terms, penalty
from surgery.projections.hdpl.latent_triton import draw_seed, fits_latents, sample_back_fused, sample_fused


def draw(tokens: int, ranks: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draw the source of the noise from torch's generator of the device, without synchronising.

    Returns:
        A seed (1,) of int64 for the kernel, else the noise (tokens, width), drawn sibling by sibling.
    """
    if fits_latents(device, dtype, ranks):
        return draw_seed(device)
    accumulation_dtype = torch.promote_types(dtype, torch.float32)
    return torch.cat(
        [torch.randn(tokens, rank, dtype=accumulation_dtype, device=device) for rank in ranks], dim=1
    )


def sample(
    latents: Float[Tensor, "t latents"], noise: Tensor, ranks: Sequence[int], terms: Terms
) -> tuple[Float[Tensor, "t latents//2"], Float[Tensor, ""], Float[Tensor, " latents//2"]]:
    """Sample the latents.

    Returns:
        (h in the dtype of the latents, the KL loss of all siblings in float32 or better, its derivatives for
        `sample_back`: see `penalty`)
    """
    fused = noise.dtype == torch.int64
    return (sample_fused if fused else sample_plainly)(latents, noise, ranks, terms)


def sample_back(
    latents: Float[Tensor, "t latents"],
    noise: Tensor,
    ranks: Sequence[int],
    terms: Terms,
    d_h: Float[Tensor, "t latents//2"],
    d_loss: Float[Tensor, ""],
    d_penalty: Float[Tensor, " latents//2"],
    inplace: bool,
) -> tuple[Float[Tensor, "t latents"], Float[Tensor, "t latents//2"], Float[Tensor, "parts latents"]]:
    """Compute the gradients of `sample`. Overwrites `d_h`, and may overwrite `latents` if `inplace`.

    Returns:
        (gradient of the latents, h recomputed, the gradient of the latents summed over parts of the tokens)
    """
    if noise.dtype == torch.int64:
        return sample_back_fused(latents, noise, ranks, terms, d_h, d_loss, d_penalty, inplace)
    return sample_back_plainly(latents, noise, ranks, terms, d_h, d_loss, d_penalty)


def sample_plainly(
    latents: Float[Tensor, "t latents"],
    noise: Float[Tensor, "t latents//2"],
    ranks: Sequence[int],
    terms: Terms,
) -> tuple[Float[Tensor, "t latents//2"], Float[Tensor, ""], Float[Tensor, " latents//2"]]:
    """Compute `sample` in plain torch, on any device and in any precision."""
    mu, logvar = latents.to(noise.dtype).chunk(2, dim=1)
    sigma = torch.exp(0.5 * logvar)
    z = torch.addcmul(mu, noise, sigma)
    parts = []
    for form, kl in zip(terms.forms, _siblings_kl(mu, logvar, sigma, ranks, terms), strict=True):
        part = kl.sum(0)
        if form == REFERENCE:
            part = torch.zeros_like(part)
            part[0] = kl.sum(1).clamp(max=LN2).sum()
        parts.append(part)
    return torch.nn.functional.silu(z).to(latents.dtype), *penalty(torch.cat(parts), ranks, terms, len(z))


def sample_back_plainly(
    latents: Float[Tensor, "t latents"],
    noise: Float[Tensor, "t latents//2"],
    ranks: Sequence[int],
    terms: Terms,
    d_h: Float[Tensor, "t latents//2"],
    d_loss: Float[Tensor, ""],
    d_penalty: Float[Tensor, " latents//2"],
) -> tuple[Float[Tensor, "t latents"], Float[Tensor, "t latents//2"], Float[Tensor, "1 latents"]]:
    """Compute `sample_back` in plain torch."""
    mu, logvar = latents.to(noise.dtype).chunk(2, dim=1)
    sigma = torch.exp(0.5 * logvar)
    z = torch.addcmul(mu, noise, sigma)
    h = torch.nn.functional.silu(z)
    gate = z.sigmoid_()
    d_z = gate.addcmul_(h, 1 - gate).mul_(d_h)  # sigmoid(z) + h (1 - sigmoid(z)) is the derivative of silu
    d_latents = torch.empty_like(latents, dtype=noise.dtype)
    d_mu, d_logvar = d_latents.chunk(2, dim=1)
    d_mu.copy_(d_z)
    torch.mul(d_z.mul_(noise), sigma, out=d_logvar)
    first, d_sums = 0, d_penalty * d_loss
    kls = _siblings_kl(mu, logvar, sigma, ranks, terms)
    for form, rank, kl in zip(terms.forms, ranks, kls, strict=True):
        own = slice(first, first + rank)
        first += rank
        if form:
            weight = d_sums[own]
            if form == REFERENCE:
                weight = weight * (kl.sum(1, keepdim=True) <= LN2)
            d_mu[:, own].addcmul_(mu[:, own], weight)
            d_logvar[:, own].addcmul_(sigma[:, own].square() - 1, weight)
    d_logvar.mul_(0.5)
    return d_latents.to(latents.dtype), h.to(latents.dtype), d_latents.sum(0, keepdim=True)


def _siblings_kl(
    mu: Tensor, logvar: Tensor, sigma: Tensor, ranks: Sequence[int], terms: Terms
) -> list[Tensor]:
    """Return the KL in nats (tokens, rank) of each sibling; zeros (1, rank) for those without a loss."""
    split = [x.split(list(ranks), dim=1) for x in (mu, logvar, sigma)]
    return [
        0.5 * (m.square() + s.square() - v - 1) if form else m.new_zeros(1, m.shape[1])
        for form, m, v, s in zip(terms.forms, *split, strict=True)
    ]
