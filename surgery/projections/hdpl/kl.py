"""KL(N(mu, sigma^2) || N(0, 1)) as a scalar loss in nats, in its three forms.

`reference`: summed over latents, clamped at ln 2 a token, mean over tokens (the paper's code; zero gradient
once the clamp bites, which is everywhere at usual ranks). `mean`: mean over latents and tokens. `free_bits`:
mean over latents of the token mean, floored at FREE_BITS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FORMS = {"": 0, "reference": 1, "mean": 2, "free_bits": 3}  # as kernels know them; "": no loss
REFERENCE, FREE = FORMS["reference"], FORMS["free_bits"]
LN2 = 0.693  # nats; the paper's code clamps each token's KL at this rounded value
FREE_BITS = 0.1  # nats a latent dimension left free (Kingma et al. 2016, eq. 15)


@dataclass(frozen=True)
class Terms:
    """The loss of some siblings: a form (of FORMS) and a weight for each."""

    forms: Sequence[int]
    weights: Sequence[float]

    @property
    def wanted(self) -> bool:
        return any(self.forms)

    @property
    def clamped(self) -> bool:
        return REFERENCE in self.forms

    @property
    def summed(self) -> bool:
        """Whether KL is wanted by latent."""
        return any(form > REFERENCE for form in self.forms)

    @property
    def code(self) -> int:
        """All forms in one number, two bits each."""
        return sum(form << 2 * place for place, form in enumerate(self.forms))


def penalty(
    sums: Float[Tensor, " width"], ranks: Sequence[int], terms: Terms, tokens: int
) -> tuple[Float[Tensor, ""], Float[Tensor, " width"]]:
    """(weighted loss of all siblings, its derivative by each sum) out of what the latents' step has summed
    over tokens: KL by latent, for `reference` each token's total clamped at LN2, in whichever latents.

    A sum of `reference` stands for all latents: its derivative is in each one's place.
    """
    loss, slopes = sums.new_zeros(()), torch.zeros_like(sums)
    parts = zip(terms.forms, terms.weights, ranks, sums.split(ranks), slopes.split(ranks), strict=True)
    for form, weight, rank, mine, slope in parts:
        if form:
            scale = weight / max(tokens, 1) / (1 if form == REFERENCE else rank)
            floor = FREE_BITS * tokens if form == FREE else -torch.inf
            loss = loss + scale * mine.clamp(min=floor).sum()
            slope.copy_(scale * (mine >= floor))
    return loss, slopes
