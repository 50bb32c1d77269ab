"""`H`: HGRN2 (arXiv 2404.07904), a gated linear RNN whose forget gates are also its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import Carry, MakeProjection, MixerSpec, Options
from surgery.mixers.head_sizes import (
    HEADS,
    KEY_RATIO,
    HeadSizes,
    canonical_heads,
    expand_v,
    resolve_heads,
    value_width,
)
from surgery.mixers.softmax import is_softmax

if TYPE_CHECKING:
    from torch import nn


def build(backbone: Backbone, options: Options, key: int) -> HeadSizes:
    """Return the sizes with this width of a head's key."""
    heads = options["heads"] or backbone.num_heads
    return HeadSizes(dim=backbone.dim, heads=heads, key=key, value=value_width(options, key))


def resolve(backbone: Backbone, options: Options) -> HeadSizes:
    """Return the sizes that result from a mixer's options on this backbone."""
    return resolve_heads(backbone, options, build)


class HGRN2Spec(MixerSpec):
    """S_t = Diag(f_t) S_(t-1) + (1 - f_t) v_t^T; o_t = S_t^T q_t (section 3.2)."""

    letter = "H"
    word = "hgrn2"
    name = "HGRN2"
    layer_type = "linear_attention"
    colour = "bright_magenta"
    transplanter = "surgery.mixers.hgrn2.transplant:transplant"
    options = {
        "key_ratio": KEY_RATIO,
        "expand_v": expand_v(1.0),
        "heads": HEADS,
        "lower_bound": Option(float, 0.0, low=0, high=0.999, help="least value of the forget gates"),
    }

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Return the options from the resolved sizes, so that options that round to one size are equal."""
        return canonical_heads(backbone, options, build)

    def carry(
        self, backbone: Backbone, options: Options, old: MixerSpec, old_options: Options
    ) -> dict[str, Carry]:
        """Start from softmax attention's values, with forget gates from its distances.

        Its queries and keys have no counterpart: keys are what the gates forget.
        """
        if not is_softmax(old):
            return {}
        return {"k": Carry(("q", "k")), "v": Carry(("v",)), "o": Carry(("o",)), "norm": Carry(())}

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of q k v o from the resolved widths of keys and values."""
        return resolve(backbone, options).projections

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Return the parameters of the norm."""
        return resolve(backbone, options).projections["v"][1]

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
        """Build a `HGRN2` of the resolved sizes. Imports torch."""
        from surgery.mixers.hgrn2.module import HGRN2

        sizes = resolve(backbone, options)
        return HGRN2(sizes, projection, backbone.norm_eps, lower_bound=options["lower_bound"])
