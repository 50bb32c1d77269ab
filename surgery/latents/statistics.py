"""Statistics of latents over a text, from sums that are collected token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.latents.projections import Latent

# A unit is active if the variance of its mean over the data exceeds this (Burda et al. 2016, arXiv
# 1509.00519, the activity of latent dimensions); all others are dead.
DEAD_VARIANCE = 0.01


class Moments:
    """Sums over tokens of the means mu of one projection, and of their KL from the prior.

    Sums are of distances from the first batch's mean, in float64: a variance that is small beside the square
    of its mean would be lost otherwise.
    """

    def __init__(self, rank: int) -> None:
        self.tokens = 0
        self.centre = torch.zeros(rank, dtype=torch.float64)
        self.sums = torch.zeros(rank, dtype=torch.float64)
        self.products = torch.zeros(rank, rank, dtype=torch.float64)
        self.kl = torch.zeros(rank, dtype=torch.float64)

    @torch.no_grad()
    def add(self, mu: Float[Tensor, "t rank"], logvar: Float[Tensor, "t rank"]) -> None:
        """Add the latents of some tokens: means, and logarithms of variances."""
        if not len(mu):
            return
        wide, width = mu.detach().double(), logvar.detach().double()
        if not self.tokens:
            self.centre = wide.mean(0).cpu()
        apart = wide - self.centre.to(wide.device)
        self.sums += apart.sum(0).cpu()
        self.products += (apart.t() @ apart).cpu()
        self.kl += (0.5 * (wide.square() + width.exp() - width - 1)).sum(0).cpu()
        self.tokens += len(mu)


@dataclass(frozen=True)
class Statistics:
    """Statistics of the latents of one projection; tensors are (rank,) in float64, one number per unit.

    Attributes:
        latent: the projection.
        tokens: number of tokens, times the passes of a loop.
        mean: of mu over tokens.
        variance: of mu over tokens, not of the noise.
        kl: mean KL(N(mu, sigma^2) || N(0, 1)) in nats per token.
        effective_rank: exp(H) of the eigenvalues of mu's covariance, as shares of their sum (Roy and Vetterli
            2007, EUSIPCO): from 1 for a single direction to `rank` for equal variance in all; 0 if nothing
            varies.
    """

    latent: Latent
    tokens: int
    mean: Float[Tensor, " rank"]
    variance: Float[Tensor, " rank"]
    kl: Float[Tensor, " rank"]
    effective_rank: float

    @classmethod
    def of(cls, latent: Latent, moments: Moments) -> Statistics:
        """Compute the statistics of at least one token."""
        tokens = moments.tokens
        shift = moments.sums / tokens
        covariance = moments.products / tokens - torch.outer(shift, shift)
        variance = covariance.diagonal().clamp(min=0)
        return cls(
            latent, tokens, moments.centre + shift, variance, moments.kl / tokens, effective_rank(covariance)
        )

    @property
    def rank(self) -> int:
        """Number of units."""
        return len(self.mean)

    @property
    def sd(self) -> Float[Tensor, " rank"]:
        """Standard deviations over tokens."""
        return self.variance.sqrt()

    def dead(self, threshold: float = DEAD_VARIANCE) -> list[int]:
        """Return the units whose variance over tokens is at most the threshold."""
        return (self.variance <= threshold).nonzero().flatten().tolist()


def effective_rank(covariance: Float[Tensor, "rank rank"]) -> float:
    """Return exp of the entropy of a covariance's eigenvalues as shares of their sum; 0 if all are 0."""
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)
    total = float(values.sum())
    if total <= 0:
        return 0.0
    shares = values / total
    return math.exp(float(torch.special.entr(shares).sum()))
