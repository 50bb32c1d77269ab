"""`hdpl`: Hybrid Dual-Path Linear (arXiv 2602.07070), a block-diagonal plus a variational low-rank path."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any

from surgery.config.options import Option
from surgery.projections.base import Options, ProjectionSpec

if TYPE_CHECKING:
    from torch import nn

# Below this rank some tokens' KL at initialisation is under ln 2, so that the clamped `reference` loss still
# has some gradient: measured 98.8 % of tokens clamped at rank 8, all at 64.
DEAD_RANK = 16


class HDPLSpec(ProjectionSpec):
    """y = BlockDiag(x) + D silu(z), z ~ N(mu(x), sigma(x)^2) in training and z = mu(x) in evaluation."""

    name = "hdpl"
    colour = "bright_red"
    fitter = "surgery.projections.hdpl.fit:fit_hdpl"
    conditional = ("kl_weight",)
    training_only = ("kl_weight", "kl")
    options = {
        "blocks": Option(int, low=1, help="diagonal blocks; must divide both sides"),
        "rank": Option(int, low=1, help="latent dimensions", scales="width"),
        "kl_weight": Option(float, 1e-3, low=0, help="weight of the auxiliary loss"),
        "kl": Option(
            str, "reference", choices=("reference", "mean", "free_bits"), help="form of the auxiliary loss"
        ),
    }

    def broken_rule(self, d_in: int, d_out: int, options: Options) -> tuple[str, str] | None:
        """Return (`blocks`, broken rule) if they do not divide both widths, else None."""
        blocks = options["blocks"]
        if d_in % blocks or d_out % blocks:
            common = gcd(d_in, d_out)
            below = max(n for n in range(1, min(blocks, common) + 1) if common % n == 0)
            return "blocks", f"must divide both {d_in} and {d_out}; the next lower divisor is {below}"
        return None

    def canonical(self, options: Options) -> dict[str, Any]:
        """Return the options with `kl` at its default if `kl_weight` is 0."""
        kl = "reference" if options["kl_weight"] == 0 else options["kl"]  # without weight, without effect
        return {**options, "kl": kl}

    def idle_options(self, options: Options) -> dict[str, str]:
        """Return `kl_weight` with the reason where the clamped KL has no gradient; else empty."""
        reason = self.warning({**options, "kl_weight": 1.0})
        return {"kl_weight": reason} if reason else {}

    def params(self, d_in: int, d_out: int, options: Options) -> int:
        """Return the parameters of the blocks, both encoders with their biases, and the decoder."""
        blocks, rank = int(options["blocks"]), int(options["rank"])
        encoders = 2 * (d_in * rank + rank)  # mu and logvar, both with bias
        return d_in * d_out // blocks + encoders + rank * d_out

    def flops(self, d_in: int, d_out: int, options: Options, *, training: bool) -> int:
        """Return the FLOPs per token; only training computes the variance's encoder."""
        blocks, rank = int(options["blocks"]), int(options["rank"])
        encoders = (2 if training else 1) * d_in * rank  # evaluation needs mu only
        return 2 * (d_in * d_out // blocks + encoders + rank * d_out)

    def short(self, options: Options) -> str:
        """Return blocks and rank, and the loss where it is not the default: `b8 r128 mean:0.001`."""
        text = f"b{options['blocks']} r{options['rank']}"
        if options["kl"] != "reference" and options["kl_weight"]:
            text += f" {options['kl']}:{options['kl_weight']:.2g}"
        return text

    def warning(self, options: Options) -> str:
        """Return a warning if the clamped KL has no gradient at this rank, else the empty string."""
        if options["kl"] == "reference" and options["kl_weight"] and options["rank"] >= DEAD_RANK:
            return (
                f"kl_weight has no effect: at rank {options['rank']} the reference KL is clamped at ln 2 for "
                "every token and has zero gradient; use `kl: mean` or `kl: free_bits`"
            )
        return ""

    def build(self, d_in: int, d_out: int, bias: bool, options: Options) -> nn.Module:
        """Build an `HDPL`. Imports torch."""
        from surgery.projections.hdpl.module import HDPL

        return HDPL(d_in, d_out, bias=bias, **options)
