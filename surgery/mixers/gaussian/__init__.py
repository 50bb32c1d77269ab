"""`K`: Gaussian-kernel attention (GKA, arXiv 2605.02144) with the paper's options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import Carry, MakeProjection, MixerSpec, Options
from surgery.mixers.gaussian.sizes import PAD
from surgery.mixers.softmax import cached_in, is_softmax, mean_seen_in, narrowed, seen_in

if TYPE_CHECKING:
    from torch import nn


class GaussianSpec(MixerSpec):
    """Attention with weights W_ij ~ exp(-|x_i - x_j|^2 / (2 sigma_h^2)) and a learned sigma_h per head.

    Heads are slices of the normed stream, head_dim wide, so there are dim / head_dim of them.
    """

    letter = "K"
    word = "gaussian"
    name = "Gaussian-kernel attention"
    colour = "magenta"
    windowed = True
    transplanter = "surgery.mixers.gaussian.transplant:transplant"
    options = {
        "keep": Option(
            str, "none", choices=("none", "qk"), help="projections kept: none, or q and k (without v)"
        ),
        "value": Option(
            str, "rotated", choices=("rotated", "plain"), help="values: features with or without RoPE"
        ),
        "norm": Option(bool, True, help="norm features per head, as in the paper's language models"),
        "window": Option(
            int, 0, low=0, help="tokens that a query sees, itself included; 0: all", scales="context"
        ),
    }

    def broken_rule(self, backbone: Backbone, options: Options) -> tuple[str, str] | None:
        """Return (option, broken rule) if dim is not a multiple of head_dim, else None."""
        if backbone.dim % backbone.head_dim:
            rule = f"needs dim ({backbone.dim}) to be a multiple of head_dim ({backbone.head_dim})"
            return "keep", rule
        return None

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Return the options with `value` at its default where `keep: qk` gives it no effect."""
        idle = {"value": "rotated"} if options["keep"] == "qk" else {}
        return {**options, **idle}

    def carry(
        self, backbone: Backbone, options: Options, old: MixerSpec, old_options: Options
    ) -> dict[str, Carry]:
        """Fit `o` and the bandwidth to softmax attention; q and k, if there are any, start from its own."""
        if not is_softmax(old):
            return {}
        origins = {"o": Carry(("o",)), "log_sigma": Carry(("q", "k"))}
        if options["keep"] == "qk" and backbone.num_heads * backbone.head_dim == backbone.dim:
            origins |= {"q": Carry(("q",)), "k": Carry(("k",))}
        return origins

    def in_pass(self, options: Options, window: int | None) -> Options:
        """Return the options with the smaller of their own window and the pass's."""
        return narrowed(options, window)

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of o, and of q and k with `keep: qk`: all dim x dim."""
        names = "qko" if options["keep"] == "qk" else "o"
        return dict.fromkeys(names, (backbone.dim, backbone.dim))

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Return the number of bandwidths."""
        return backbone.dim // backbone.head_dim  # one bandwidth per head

    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the FLOPs per token of scores and weighted values, over the tokens in the window."""
        channels = backbone.head_dim
        if not options["norm"]:  # one channel for the keys' length, padded to the kernels' alignment
            channels = -(-(channels + 1) // PAD) * PAD
        return 4 * (backbone.dim // backbone.head_dim) * channels * seen_in(options, context)

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Return the mean of `mixing_flops` in closed form: it is proportional to the tokens seen."""
        return self.mixing_flops(backbone, options, 1) * mean_seen_in(options, length)

    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the bytes of cached keys and values in bfloat16; they are stored once where equal."""
        shared = options["keep"] == "none" and options["value"] == "rotated"  # keys and values are equal
        return 2 * (1 if shared else 2) * backbone.dim * cached_in(options, context)

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """Build a `GaussianAttention`. Imports torch."""
        from surgery.mixers.gaussian.module import GaussianAttention

        return GaussianAttention(backbone, projection, **options)
