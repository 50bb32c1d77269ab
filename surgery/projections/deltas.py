"""Low-rank changes of a shared projection in the later passes of a loop (arXiv 2410.20672, section 2.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from surgery.projections.rates import relative_rate


class Deltas(nn.Module):
    """Pass t > 1 adds B_t A_t x to what the shared projection returns; B starts at zero, as in LoRA.

    The first pass has none: a change in every pass alike could as well be made in the shared weights.
    """

    def __init__(self, passes: int, rank: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(passes, rank, d_in))
        self.b = nn.Parameter(torch.empty(passes, d_out, rank))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw A from truncated normals of std d_in^-0.5, as the model's dense maps, and set B to zero."""
        std = self.a.shape[2] ** -0.5
        nn.init.trunc_normal_(self.a, std=std, a=-3 * std, b=3 * std)
        nn.init.zeros_(self.b)

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates relative to a dense map's, by parameter; used by the rule `width`."""
        return {"b": relative_rate(self.a.shape[2], self.a.shape[1])}

    def forward(self, x: Float[Tensor, "*batch d_in"], index: int) -> Float[Tensor, "*batch d_out"]:
        """Return B A x of the later pass number `index`, which counts from 0."""
        return nn.functional.linear(nn.functional.linear(x, self.a[index]), self.b[index])
