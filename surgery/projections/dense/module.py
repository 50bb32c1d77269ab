"""The plain linear map as a projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgery.context import Context


class Dense(nn.Linear):
    """`nn.Linear` that accepts and ignores the forward context."""

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Return W x (+ b)."""
        return nn.functional.linear(x, self.weight, self.bias)

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Set the weight to zero."""
        self.weight.zero_()
