"""Hybrid Dual-Path Linear as a torch module (arXiv 2602.07070; papers.md section 5)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.context import Context

LN2 = 0.693  # nats; the paper's code clamps each token's KL at this rounded value
FREE_BITS = 0.1  # nats a latent dimension left free (Kingma et al. 2016, eq. 15)


class HDPL(nn.Module):
    """y = BlockDiag(x) + D silu(z) (+ b).

    Parameters: `blocks` (blocks, d_out/blocks, d_in/blocks), `mu` and `logvar` d_in -> rank with bias,
    `decoder` rank -> d_out without. `bias` (d_out,) only where the dense map had one.
    """

    def __init__(
        self, d_in: int, d_out: int, *, blocks: int, rank: int, kl_weight: float, kl: str, bias: bool = False
    ) -> None:
        super().__init__()
        assert d_in % blocks == d_out % blocks == 0, "checked where the architecture is read"
        self.kl_weight, self.kl = kl_weight, kl
        self.blocks = nn.Parameter(torch.empty(blocks, d_out // blocks, d_in // blocks))
        self.mu = nn.Linear(d_in, rank)
        self.logvar = nn.Linear(d_in, rank)
        self.decoder = nn.Linear(rank, d_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The paper's initialisation, with the identity on every block (its code: on the first only).

        Blocks that are not square are orthogonal, as in the paper, but scaled like a dense map: unit inputs
        give unit outputs. Its own are smaller by (d_in / (blocks d_out))^0.5; gate and up then held
        feed-forward layers back by 0.2 to 0.4 nats after 64k tokens (dim 48, 4 blocks).
        """
        blocks, rows, columns = self.blocks.shape
        with torch.no_grad():
            if rows == columns:
                self.blocks.copy_(torch.eye(rows).expand(blocks, rows, columns))
                self.blocks.add_(torch.randn_like(self.blocks), alpha=0.01)
            else:
                gain = max(1.0, blocks * rows / columns) ** 0.5
                nn.init.orthogonal_(self.blocks.view(blocks * rows, columns), gain)
            for encoder in (self.mu, self.logvar):
                bound = 1 / math.sqrt(encoder.in_features)
                nn.init.uniform_(encoder.bias, -bound, bound)
            nn.init.orthogonal_(self.mu.weight)
            nn.init.zeros_(self.logvar.weight)
            nn.init.orthogonal_(self.decoder.weight)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Both paths give nothing at first; the encoders keep their start, so that the decoder learns."""
        self.blocks.zero_()
        self.decoder.weight.zero_()

    def forward(
        self, x: Float[Tensor, "*batch d_in"], context: Context | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        latent = self.mu(x)
        if self.training:
            mu, logvar = latent, self.logvar(x)
            latent = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
            if context is not None and self.kl_weight:
                context.losses.append(self.kl_weight * kl_loss(mu, logvar, self.kl))
        low_rank = F.linear(F.silu(latent), self.decoder.weight, self.bias)
        return block_diagonal(x, self.blocks) + low_rank


def block_diagonal(
    x: Float[Tensor, "*batch d_in"], blocks: Float[Tensor, "n rows columns"]
) -> Float[Tensor, "*batch d_out"]:
    """Each of the n slices of x through its own block."""
    n, rows, columns = blocks.shape
    flat = x.reshape(x.shape[:-1].numel(), n, columns).transpose(0, 1)  # no -1: there may be no token
    # under autocast bmm casts both sides; the product is (n, tokens, rows)
    return torch.bmm(flat, blocks.transpose(1, 2)).transpose(0, 1).reshape(*x.shape[:-1], n * rows)


def kl_loss(mu: Float[Tensor, "*batch rank"], logvar: Float[Tensor, "*batch rank"], form: str) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) in nats as a scalar loss, in float32 or better.

    `reference`: summed over latents, clamped at ln 2 a token, mean over tokens (the paper's code; zero
    gradient once the clamp bites, which is everywhere at usual ranks). `mean`: mean over latents and
    tokens. `free_bits`: mean over latents of the token mean, floored at FREE_BITS.
    """
    exact = torch.promote_types(mu.dtype, torch.float32)
    mu, logvar = mu.to(exact), logvar.to(exact)
    kl = -0.5 * (1 + logvar - mu.square() - logvar.exp())
    if form == "reference":
        return kl.sum(-1).clamp(max=LN2).mean()
    if form == "mean":
        return kl.mean()
    return kl.reshape(-1, kl.shape[-1]).mean(0).clamp(min=FREE_BITS).mean()
