"""Common specification of mixers with the delta rule, without torch."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import Carry, MixerSpec, Options
from surgery.mixers.delta.sizes import MAX_CONV, StateSizes, resolve_sizes, with_key
from surgery.mixers.head_sizes import HEADS, KEY_RATIO, canonical_heads
from surgery.mixers.head_sizes import expand_v as ratio_of_widths
from surgery.mixers.softmax import is_softmax


def delta_options(*, expand_v: float, gate: str, **more: Option) -> dict[str, Option]:
    """Return the options of a mixer with the delta rule.

    Args:
        expand_v: default of the option of that name.
        gate: formula of the output gate, for its help.
        more: options of this mixer alone, which stand behind `gate`.
    """
    return {
        "key_ratio": KEY_RATIO,
        "expand_v": ratio_of_widths(expand_v),
        "heads": HEADS,
        "conv_size": Option(
            int, 4, low=0, high=MAX_CONV, help="tokens that the short convolution spans; 0 or 1: none"
        ),
        "gate": Option(bool, True, help=f"output gate {gate}"),
        **more,
        "negative_eigenvalues": Option(
            bool, False, help="beta reaches 2 instead of 1, so that a state may change its sign"
        ),
        "norm_eps": Option(
            float, 0.0, low=0, high=0.1, help="epsilon of the output's norm; 0: the backbone's norm_eps"
        ),
    }  # fmt: skip


class DeltaSpec(MixerSpec):
    """A state per head that decays, is corrected by every token, and is read by its query."""

    layer_type = "linear_attention"
    sizes: ClassVar[type[StateSizes]]

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Return the options from the resolved sizes, so that options that round to one size are equal."""
        conv = resolve_sizes(self.sizes, backbone, options).conv
        same = canonical_heads(backbone, {**options, "conv_size": conv}, partial(with_key, self.sizes))
        if same.get("norm_eps", 0) in (0, backbone.norm_eps):
            same.pop("norm_eps", None)  # older architectures have no such field
        return same

    def carry(
        self, backbone: Backbone, options: Options, old: MixerSpec, old_options: Options
    ) -> dict[str, Carry]:
        """Start from the projections of softmax attention, with rates and gates from its attention."""
        if not is_softmax(old):
            return {}
        attention = ("q", "k")
        origins = {name: Carry((name,)) for name in "qkvo"}
        origins |= {"conv": Carry(()), "norm": Carry(()), "beta": Carry(attention)}
        if options.get("decay", True):
            origins |= dict.fromkeys(("decay", "A_log", "dt_bias"), Carry(attention))
        if options["gate"]:
            origins["output_gate"] = Carry(("v",))
        return origins

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of q k v o from the resolved widths of keys and values."""
        return resolve_sizes(self.sizes, backbone, options).projections

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Return the parameters of gate, beta, decay, convolution and the norm of a head."""
        sizes = resolve_sizes(self.sizes, backbone, options)
        return sizes.maps + sizes.rates + sizes.channels * sizes.conv + sizes.value  # value: norm of a head

    def own_flops(self, backbone: Backbone, options: Options) -> int:
        """Return the FLOPs per token of the maps to gate, beta and decay, and of the convolution."""
        sizes = resolve_sizes(self.sizes, backbone, options)
        return 2 * (sizes.maps + sizes.channels * sizes.conv)

    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the FLOPs per token of updating and reading the state, whatever the context."""
        sizes = resolve_sizes(self.sizes, backbone, options)
        return 6 * sizes.heads * sizes.key * sizes.value  # read with k, write, read with q

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Return `mixing_flops`, which is the same for every token."""
        return self.mixing_flops(backbone, options, length)

    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the bytes of the state (float32) and the convolution's past tokens, whatever the context."""
        sizes = resolve_sizes(self.sizes, backbone, options)
        columns = sizes.channels * max(0, sizes.conv - 1)
        return 2 * columns + 4 * sizes.heads * sizes.key * sizes.value
