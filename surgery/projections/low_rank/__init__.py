"""`low_rank`: the product of two thin matrices (docs/papers.md, Low-rank projections)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.config.options import Option
from surgery.projections.base import Options, ProjectionSpec

if TYPE_CHECKING:
    from torch import nn


class LowRankSpec(ProjectionSpec):
    """y = B A x (+ b), A being (rank, d_in) and B (d_out, rank)."""

    name = "low_rank"
    colour = "bright_magenta"
    fitter = "surgery.projections.low_rank.fit:fit_low_rank"
    options = {"rank": Option(int, low=1, help="inner width, at most the smaller side", scales="width")}

    def broken_rule(self, d_in: int, d_out: int, options: Options) -> tuple[str, str] | None:
        """Return (`rank`, broken rule) if it is beyond the rank of a dense map, else None."""
        full = min(d_in, d_out)
        if options["rank"] > full:
            return "rank", f"must be at most {full}, the rank of a dense map {d_in} -> {d_out}"
        return None

    def params(self, d_in: int, d_out: int, options: Options) -> int:
        """Return the number of weights of both matrices."""
        return int(options["rank"]) * (d_in + d_out)

    def flops(self, d_in: int, d_out: int, options: Options, *, training: bool) -> int:
        """Return the FLOPs per token, the same in training and in evaluation."""
        return 2 * self.params(d_in, d_out, options)

    def short(self, options: Options) -> str:
        """Return the rank: `r128`."""
        return f"r{options['rank']}"

    def build(self, d_in: int, d_out: int, bias: bool, options: Options) -> nn.Module:
        """Build a `LowRank`. Imports torch."""
        from surgery.projections.low_rank.module import LowRank

        return LowRank(d_in, d_out, bias=bias, **options)
