"""`dense`: the plain linear map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.projections.base import Options, ProjectionSpec

if TYPE_CHECKING:
    from torch import nn


class DenseSpec(ProjectionSpec):
    """y = W x (+ b)."""

    name = "dense"
    colour = "bright_black"

    def params(self, d_in: int, d_out: int, options: Options) -> int:
        """Return the number of weights."""
        return d_in * d_out

    def flops(self, d_in: int, d_out: int, options: Options, *, training: bool) -> int:
        """Return the FLOPs per token, the same in training and in evaluation."""
        return 2 * d_in * d_out

    def short(self, options: Options) -> str:
        """Return the empty string: there are no options."""
        return ""

    def build(self, d_in: int, d_out: int, bias: bool, options: Options) -> nn.Module:
        """Build a `Dense`. Imports torch."""
        from surgery.projections.dense.module import Dense

        return Dense(d_in, d_out, bias=bias)
