"""`M`: Mamba-2 (arXiv 2405.21060), a selective state space whose heads fade by a number from each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import Carry, MakeProjection, MixerSpec, Options
from surgery.mixers.delta.sizes import MAX_CONV
from surgery.mixers.mamba2.sizes import (
    MAX_EXPAND,
    MAX_GROUPS,
    MAX_STATE,
    MAX_WIDTH,
    matched,
    resolve,
)
from surgery.mixers.softmax import is_softmax

if TYPE_CHECKING:
    from torch import nn


class Mamba2Spec(MixerSpec):
    """S_t = exp(-A dt_t) S_(t-1) + k_t (dt_t v_t)^T; o_t = S_t^T q_t + D v_t, per head (section 2).

    Queries are C, keys B and values x in the paper's letters.
    """

    letter = "M"
    word = "mamba2"
    name = "Mamba-2"
    layer_type = "linear_attention"
    colour = "bright_yellow"
    transplanter = "surgery.mixers.mamba2.transplant:transplant"
    options = {
        "expand": Option(
            float, 0.0, low=0, high=MAX_EXPAND,
            help="width of all values / dim; 0: as many weights as the softmax attention it replaces",
        ),
        "state_size": Option(int, 64, low=1, high=MAX_STATE, help="width of a key, and so of a state"),
        "head_dim": Option(
            int, 0, low=0, high=MAX_WIDTH, help="width of a head's value; 0: the backbone's head_dim"
        ),
        "groups": Option(int, 1, low=1, high=MAX_GROUPS, help="groups of heads that share queries and keys"),
        "conv_size": Option(
            int, 4, low=0, high=MAX_CONV, help="tokens that the short convolution spans; 0 or 1: none"
        ),
    }  # fmt: skip

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Return the options from the resolved sizes, so that options that round to one size are equal."""
        sizes = resolve(backbone, options)
        same = {
            **options,
            "head_dim": 0 if sizes.value == backbone.head_dim else sizes.value,
            "conv_size": sizes.conv,
        }
        usual = matched(backbone, same).heads == sizes.heads
        # clamped if rounding exceeded the bound; the clamped value rounds to the same heads
        return {**same, "expand": 0.0 if usual else min(MAX_EXPAND, sizes.inner / sizes.dim)}

    def carry(
        self, backbone: Backbone, options: Options, old: MixerSpec, old_options: Options
    ) -> dict[str, Carry]:
        """Start from the projections of softmax attention, with steps from its distances."""
        if not is_softmax(old):
            return {}
        attention = ("q", "k")
        origins = {name: Carry((name,)) for name in "vo"} | dict.fromkeys("qk", Carry(attention))
        origins |= dict.fromkeys(("step", "A_log", "dt_bias"), Carry(attention))
        return origins | dict.fromkeys(("conv", "conv_bias", "D", "norm", "output_gate"), Carry(()))

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of q k v o from the resolved widths of keys and values."""
        return resolve(backbone, options).projections

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Return the parameters of gate, steps, A, D, convolution with its bias, and norm."""
        sizes = resolve(backbone, options)
        convolution = sizes.channels * (sizes.conv + 1) if sizes.conv else 0
        return sizes.maps + 3 * sizes.heads + convolution + sizes.inner  # A_log, dt_bias, D; the norm

    def own_flops(self, backbone: Backbone, options: Options) -> int:
        """Return the FLOPs per token of the maps to gate and steps, and of the convolution."""
        sizes = resolve(backbone, options)
        return 2 * (sizes.maps + sizes.channels * sizes.conv)

    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the FLOPs per token of writing into the state and reading it, whatever the context."""
        return 4 * resolve(backbone, options).state

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Return `mixing_flops`, which is the same for every token."""
        return self.mixing_flops(backbone, options, length)

    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the bytes of the state (float32) and the convolution's past tokens, whatever the context."""
        sizes = resolve(backbone, options)
        return 2 * sizes.channels * max(0, sizes.conv - 1) + 4 * sizes.state

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """Build a `Mamba2` of the resolved sizes. Imports torch."""
        from surgery.mixers.mamba2.module import Mamba2

        return Mamba2(resolve(backbone, options), projection, backbone.norm_eps)
