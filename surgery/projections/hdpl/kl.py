"""KL(N(mu, sigma^2) || N(0, 1)) as a scalar loss in nats, in its three forms."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

FORMS = {"": 0, "reference": 1, "mean": 2, "free_bits": 3}  # as kernels know them; "": no loss
LN2 = 0.693  # nats; the paper's code clamps each token's KL at this rounded value
FREE_BITS = 0.1  # nats a latent dimension left free (Kingma et al. 2016, eq. 15)


def kl_loss(sums: Float[Tensor, " rank"], form: str, tokens: int) -> Float[Tensor, ""]:
    """The loss out of what the latents' step has summed over tokens: KL by latent, for `reference` each
    token's total clamped at LN2, in whichever latents.

    `reference`: summed over latents, clamped at ln 2 a token, mean over tokens (the paper's code; zero
    gradient once the clamp bites, which is everywhere at usual ranks). `mean`: mean over latents and
    tokens. `free_bits`: mean over latents of the token mean, floored at FREE_BITS.
    """
    mean = sums / tokens
    if form == "reference":
        return mean.sum()
    return (mean.clamp(min=FREE_BITS) if form == "free_bits" else mean).mean()
