"""Common specification of full and sliding-window softmax attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import Carry, MakeProjection, MixerSpec, Options, kept

if TYPE_CHECKING:
    from torch import nn

GATE = Option(bool, False, help="sigmoid gate on the heads, zero-initialised")
KV_HEADS = Option(int, 0, low=0, help="key/value heads; 0: as many as the backbone's num_kv_heads")


def kv_heads(backbone: Backbone, options: Options) -> int:
    """Return the number of key/value heads of softmax attention with these options."""
    return options.get("kv_heads") or backbone.num_kv_heads


def attention_projections(backbone: Backbone, heads: int | None = None) -> dict[str, tuple[int, int]]:
    """Return the (inputs, outputs) of q k v o of softmax attention.

    `heads`: key/value heads; None: the backbone's.
    """
    queries = backbone.num_heads * backbone.head_dim
    keys = (heads or backbone.num_kv_heads) * backbone.head_dim
    return {
        "q": (backbone.dim, queries),
        "k": (backbone.dim, keys),
        "v": (backbone.dim, keys),
        "o": (queries, backbone.dim),
    }


def qk_norm_params(backbone: Backbone, kv_heads: int | None = None) -> int:
    """Return the number of weights of the query and key norms of softmax attention.

    `kv_heads`: key/value heads; None: the backbone's.
    """
    if not backbone.qk_norm:
        return 0
    heads = backbone.num_heads + (kv_heads or backbone.num_kv_heads) if backbone.joint_qk_norm else 2
    return heads * backbone.head_dim


def is_softmax(spec: MixerSpec) -> bool:
    """Return whether a mixer is softmax attention, whose weights others can start from."""
    return isinstance(spec, SoftmaxSpec)


def seen_in(options: Options, context: int) -> int:
    """Return the tokens of a context that a query sees, itself included.

    These are at most the options' `window` (0: all) and `sinks`.
    """
    window = options.get("window")
    return min(context, window + options.get("sinks", 0)) if window else context


def cached_in(options: Options, context: int) -> int:
    """Return the tokens cached for decoding; a window includes the next token itself."""
    window = options.get("window")
    return min(context, window - 1 + options.get("sinks", 0)) if window else context


def mean_seen_in(options: Options, length: int) -> float:
    """Return the mean of `seen_in` over the tokens of a sequence."""
    window = seen_in(options, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length


def narrowed(options: Options, window: int | None) -> Mapping[str, Any]:
    """Return the options with the smaller of their own window and the loop pass's."""
    limits = [limit for limit in (options.get("window"), window) if limit]
    return {**options, "window": min(limits)} if limits else options


class SoftmaxSpec(MixerSpec):
    """Softmax attention with rotary positions and grouped key/value heads."""

    windowed = True
    transplanter = "surgery.mixers.full.transplant:transplant"

    def broken_rule(self, backbone: Backbone, options: Options) -> tuple[str, str] | None:
        """Return (option, broken rule) if the key/value heads don't divide the heads, else None."""
        if backbone.num_heads % self.kv_heads(backbone, options):
            return "kv_heads", f"must divide num_heads ({backbone.num_heads})"
        return None

    def kv_heads(self, backbone: Backbone, options: Options) -> int:
        """Return the number of key/value heads."""
        return kv_heads(backbone, options)

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Return the options without `kv_heads` where they are the backbone's.

        Older architectures have no such field.
        """
        usual = self.kv_heads(backbone, options) == backbone.num_kv_heads
        return {name: value for name, value in options.items() if name != "kv_heads" or not usual}

    def carry(
        self, backbone: Backbone, options: Options, old: MixerSpec, old_options: Options
    ) -> dict[str, Carry]:
        """Keep all of other softmax attention.

        Keys and values change with the number of their heads, and `o` with a gate that only one of them has,
        or where fewer heads change what it reads.
        """
        if not is_softmax(old):
            return {}
        same = kept("q", "k", "v", "o", "q_norm", "k_norm")
        heads, before = self.kv_heads(backbone, options), kv_heads(backbone, old_options)
        if heads != before:
            same |= {"o": Carry(("o",))} if heads < before else {}
            same |= {name: Carry((name,)) for name in ("k", "v")}
            same |= {"k_norm": Carry(("k_norm",))} if backbone.joint_qk_norm else {}
        if options["gate"] == old_options["gate"]:
            return same | kept("gate")
        # a new gate halves the inputs of `o`, and an old one is missing
        return same | {"o": Carry(("o",)), "gate": Carry(())}

    def in_pass(self, options: Options, window: int | None) -> Options:
        """Return the options with the smaller of their own window and the pass's."""
        return narrowed(options, window)

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of q k v o."""
        return attention_projections(backbone, self.kv_heads(backbone, options))

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Return the parameters of the QK norms and the output gate."""
        return qk_norm_params(backbone, self.kv_heads(backbone, options)) + self._gate_size(backbone, options)

    def own_flops(self, backbone: Backbone, options: Options) -> int:
        """Return the FLOPs per token of the output gate's map."""
        return 2 * self._gate_size(backbone, options)

    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the FLOPs per token of scores and weighted values, over the tokens in the window."""
        # scores, then weighted values
        return 4 * backbone.num_heads * backbone.head_dim * seen_in(options, context)

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Return the mean of `mixing_flops` in closed form: it is proportional to the tokens seen."""
        return self.mixing_flops(backbone, options, 1) * mean_seen_in(options, length)

    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the bytes of cached keys and values in bfloat16, at most a window and the sinks."""
        width = self.kv_heads(backbone, options) * backbone.head_dim
        return 2 * 2 * width * cached_in(options, context)

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """Build a `SoftmaxAttention`. Imports torch."""
        from surgery.mixers.full.module import SoftmaxAttention

        sizes = {name: options[name] for name in ("window", "sinks") if name in options}
        heads = self.kv_heads(backbone, options)
        return SoftmaxAttention(backbone, projection, kv_heads=heads, gated=options["gate"], **sizes)

    def _gate_size(self, backbone: Backbone, options: Options) -> int:
        return backbone.dim * backbone.num_heads * backbone.head_dim if options["gate"] else 0
