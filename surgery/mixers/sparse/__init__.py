"""`S`: softmax attention over the top-k tokens of a lightning indexer (DeepSeek-V3.2, 2512.02556)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import Carry, MakeProjection, MixerSpec, Options, kept
from surgery.mixers.softmax import attention_projections, is_softmax, kv_heads, qk_norm_params

if TYPE_CHECKING:
    from torch import nn


class SparseSpec(MixerSpec):
    """Grouped-query attention over one selected set of tokens per query, shared by all heads."""

    letter = "S"
    word = "sparse"
    name = "sparse top-k attention"
    layer_type = "indexed_attention"
    colour = "yellow"
    training_only = ("index_weight",)
    transplanter = "surgery.mixers.sparse.transplant:transplant"
    options = {
        # at least 2: the indexer's KL over a single token is always zero
        "top_k": Option(int, 64, low=2, help="tokens that a query attends to", scales="context"),
        "index_heads": Option(int, 4, low=1, help="heads of the indexer"),
        # the key is normalised over these channels, and half of them are rotated in pairs
        "index_dim": Option(int, 32, low=4, help="channels of an indexer head"),
        "index_weight": Option(float, 1.0, low=0, help="weight of the indexer's KL loss; 0: never trained"),
    }

    def warning(self, options: Options) -> str:
        """Return a warning if the indexer is never trained, else the empty string."""
        if options["index_weight"] == 0:
            return "with index_weight 0 the indexer is never trained: the tokens it selects stay random"
        return ""

    def carry(
        self, backbone: Backbone, options: Options, old: MixerSpec, old_options: Options
    ) -> dict[str, Carry]:
        """Keep the projections of softmax attention; the indexer learns from its attention."""
        if not is_softmax(old):
            return {}
        usable = not old_options["gate"] and kv_heads(backbone, old_options) == backbone.num_kv_heads
        same = kept("q", "k", "v", "q_norm", "k_norm") if usable else {}
        return same | {"o": Carry(("o",)), "indexer": Carry(("q", "k"))}

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of q k v o, as in softmax attention."""
        return attention_projections(backbone)

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Return the parameters of the QK norms and the indexer: its maps and its key's norm."""
        indexer = backbone.dim * self._index_outputs(options) + 2 * int(options["index_dim"])
        return qk_norm_params(backbone) + indexer

    def own_flops(self, backbone: Backbone, options: Options) -> int:
        """Return the FLOPs per token of the indexer's maps."""
        return 2 * backbone.dim * self._index_outputs(options)

    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the FLOPs of scoring all `context` tokens and attending to at most `top_k` of them."""
        attended = min(int(options["top_k"]), context)
        return self._index_flops(options) * context + self._core_flops(backbone) * attended

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Return the mean of `mixing_flops` over a sequence in closed form."""
        top = min(int(options["top_k"]), length)
        attended = (top * (top + 1) / 2 + (length - top) * top) / length
        return self._index_flops(options) * (length + 1) / 2 + self._core_flops(backbone) * attended

    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the bytes of cached keys, values and indexer keys in bfloat16."""
        return 2 * (2 * backbone.num_kv_heads * backbone.head_dim + int(options["index_dim"])) * context

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """Build a `SparseAttention`. Imports torch."""
        from surgery.mixers.sparse.module import SparseAttention

        return SparseAttention(backbone, projection, **options)

    def _index_outputs(self, options: Options) -> int:
        """Return the outputs of the indexer's maps: queries, the shared key, the heads' weights."""
        heads, size = int(options["index_heads"]), int(options["index_dim"])
        return heads * size + size + heads

    def _index_flops(self, options: Options) -> int:
        """Return the FLOPs of scoring one token: products of every head, then their weighted sum."""
        heads, size = int(options["index_heads"]), int(options["index_dim"])
        return 2 * heads * size + 2 * heads

    def _core_flops(self, backbone: Backbone) -> int:
        """Return the FLOPs of attending to one token: scores, then weighted values."""
        return 4 * backbone.num_heads * backbone.head_dim
