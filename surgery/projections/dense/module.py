"""The plain linear map as a projection."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context


class Dense(nn.Linear):
    """`nn.Linear` that accepts and ignores the forward context."""

    def forward(
        self, x: Float[Tensor, "*batch d_in"], context: Context | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Return W x (+ b)."""
        return nn.functional.linear(x, self.weight, self.bias)

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Set the weight to zero."""
        self.weight.zero_()
