"""`F`: full causal softmax attention with rotary positions and grouped key/value heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.backbone import Backbone
from surgery.mixers.base import MakeProjection, MixerSpec, Options

if TYPE_CHECKING:
    from torch import nn


def attention_projections(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """Sizes of q k v o of softmax attention."""
    queries = backbone.num_heads * backbone.head_dim
    keys = backbone.num_kv_heads * backbone.head_dim
    return {
        "q": (backbone.dim, queries),
        "k": (backbone.dim, keys),
        "v": (backbone.dim, keys),
        "o": (queries, backbone.dim),
    }


class FullSpec(MixerSpec):
    """Softmax attention over all past tokens."""

    letter = "F"
    name = "full attention"

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        return attention_projections(backbone)

    def own_params(self, backbone: Backbone, options: Options) -> int:
        return 2 * backbone.head_dim if backbone.qk_norm else 0

    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        return 4 * backbone.num_heads * backbone.head_dim * context  # scores, then weighted values

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        return self.mixing_flops(backbone, options, 1) * (length + 1) / 2

    def cache_elements(self, backbone: Backbone, options: Options, context: int) -> int:
        return 2 * backbone.num_kv_heads * backbone.head_dim * context

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        from surgery.mixers.full.module import FullAttention

        return FullAttention(backbone, projection)
