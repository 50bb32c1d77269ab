"""KL(N(mu, sigma^2) || N(0, 1)) as a scalar loss in nats, in three forms.

`reference`: summed over latents, clamped at ln 2 per token, mean over tokens (the paper's code; zero gradient
for clamped tokens, which at usual ranks are all of them). `mean`: mean over latents and tokens. `free_bits`:
mean over latents of the token mean, floored at FREE_BITS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FORMS = {"": 0, "reference": 1, "mean": 2, "free_bits": 3}  # codes for the kernels; "": no loss
REFERENCE, FREE = FORMS["reference"], FORMS["free_bits"]
LN2 = 0.693  # nats; the paper's code clamps each token's KL at this rounded value
FREE_BITS = 0.1  # nats per latent without penalty (Kingma et al. 2016, eq. 15)


@dataclass(frozen=True)
class Terms:
    """KL terms of some siblings: a form (of FORMS) and a weight for each."""

    forms: Sequence[int]
    weights: Sequence[float]

    @property
    def wanted(self) -> bool:
        """True if any sibling has a loss."""
        return any(self.forms)

    @property
    def clamped(self) -> bool:
        """True if any sibling has the form `reference`."""
        return REFERENCE in self.forms

    @property
    def summed(self) -> bool:
        """True if any form needs the KL of each latent."""
        return any(form > REFERENCE for form in self.forms)

    @property
    def code(self) -> int:
        """All forms in one number, two bits each."""
        return sum(form << 2 * index for index, form in enumerate(self.forms))


def penalty(
    sums: Float[Tensor, " width"], ranks: Sequence[int], terms: Terms, tokens: int
) -> tuple[Float[Tensor, ""], Float[Tensor, " width"]]:
    """Return (weighted loss of all siblings, its derivative for each latent's sum).

    Args:
        sums: KL of each latent, summed over tokens; for `reference` the sum of the tokens' clamped totals, in
            any one of the sibling's latents. Its derivative is then repeated for all of them.
        ranks: latents of each sibling.
        terms: forms and weights of the siblings.
        tokens: number of tokens.
    """
    loss, d_penalty = sums.new_zeros(()), torch.zeros_like(sums)
    parts = zip(terms.forms, terms.weights, ranks, sums.split(ranks), d_penalty.split(ranks), strict=True)
    for form, weight, rank, own, derivative in parts:
        if form:
            scale = weight / max(tokens, 1) / (1 if form == REFERENCE else rank)
            floor = FREE_BITS * tokens if form == FREE else -torch.inf
            loss = loss + scale * own.clamp(min=floor).sum()
            derivative.copy_(scale * (own >= floor))
    return loss, d_penalty
