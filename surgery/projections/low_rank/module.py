"""The product of two thin matrices as a projection."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context
from surgery.projections.rates import relative_rate


class LowRank(nn.Module):
    """y = B A x (+ b).

    Parameters: `encoder` A (rank, d_in) and `decoder` B (d_out, rank), both without bias, and `bias` (d_out,)
    only if the dense map had one.
    """

    def __init__(self, d_in: int, d_out: int, *, rank: int, bias: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Linear(d_in, rank, bias=False)
        self.decoder = nn.Linear(rank, d_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise both matrices as dense maps are, so that each keeps the variance of its inputs."""
        for layer in (self.encoder, self.decoder):
            std = layer.in_features**-0.5
            nn.init.trunc_normal_(layer.weight, std=std, a=-3 * std, b=3 * std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates relative to a dense map's, by parameter; used by the rule `width`."""
        return {"decoder.weight": relative_rate(self.encoder.in_features, self.decoder.in_features)}

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Set B to zero; A stays as it is, so that B can learn."""
        self.decoder.weight.zero_()

    def forward(
        self, x: Float[Tensor, "*batch d_in"], context: Context | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Return B A x (+ b). Both layers are called, so that adapters on them have their effect."""
        y: Tensor = self.decoder(self.encoder(x))
        return y if self.bias is None else y + self.bias.to(y.dtype)
