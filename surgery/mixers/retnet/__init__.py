"""`R`: retention (RetNet, arXiv 2307.08621), linear attention whose heads fade at fixed rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import Carry, MakeProjection, MixerSpec, Options
from surgery.mixers.head_sizes import HEADS, KEY_RATIO, canonical_heads, expand_v
from surgery.mixers.retnet.sizes import build, resolve
from surgery.mixers.softmax import is_softmax

if TYPE_CHECKING:
    from torch import nn


class RetNetSpec(MixerSpec):
    """S_t = gamma_h S_(t-1) + k_t v_t^T; o_t = S_t^T q_t, with gamma_h = 1 - 2^(-5 - h) (eq. 6 and 8)."""

    letter = "R"
    word = "retnet"
    name = "retention"
    layer_type = "linear_attention"
    colour = "bright_blue"
    transplanter = "surgery.mixers.retnet.transplant:transplant"
    options = {
        "key_ratio": KEY_RATIO,
        "expand_v": expand_v(2.0),
        "heads": HEADS,
        "gate": Option(bool, True, help="output gate silu(W x)"),
    }

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Return the options from the resolved sizes, so that options that round to one size are equal."""
        return canonical_heads(backbone, options, build)

    def carry(
        self, backbone: Backbone, options: Options, old: MixerSpec, old_options: Options
    ) -> dict[str, Carry]:
        """Start from the projections of softmax attention, which have the same positions."""
        if not is_softmax(old):
            return {}
        origins = {name: Carry((name,)) for name in "qkvo"} | {"norm": Carry(())}
        return origins | ({"output_gate": Carry(("v",))} if options["gate"] else {})

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of q k v o from the resolved widths of keys and values."""
        return resolve(backbone, options).projections

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Return the parameters of the output gate and of the norm of a head."""
        sizes = resolve(backbone, options)
        return sizes.maps + sizes.value

    def own_flops(self, backbone: Backbone, options: Options) -> int:
        """Return the FLOPs per token of the output gate's map."""
        return 2 * resolve(backbone, options).maps

    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the FLOPs per token of writing into the state and reading it, whatever the context."""
        return 4 * resolve(backbone, options).state

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Return `mixing_flops`, which is the same for every token."""
        return self.mixing_flops(backbone, options, length)

    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the bytes of the state in float32, whatever the context."""
        return 4 * resolve(backbone, options).state

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """Build a `Retention` of the resolved sizes. Imports torch."""
        from surgery.mixers.retnet.module import Retention

        return Retention(resolve(backbone, options), projection, backbone.norm_eps)
