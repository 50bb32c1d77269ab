"""`B`: Native Sparse Attention over compressed blocks, selected blocks and a window (arXiv 2502.11089)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import Carry, MakeProjection, MixerSpec, Options, kept
from surgery.mixers.nsa.sizes import BRANCHES, Sizes
from surgery.mixers.softmax import attention_projections, is_softmax, kv_heads, qk_norm_params

if TYPE_CHECKING:
    from torch import nn

FIXED = 3  # blocks that are always selected: the first one, the query's own and the one before it


class NativeSparseSpec(MixerSpec):
    """Three softmax attentions of the same queries, summed with a gate per head and token for each."""

    letter = "B"
    word = "nsa"
    name = "Native Sparse Attention"
    colour = "bright_yellow"
    transplanter = "surgery.mixers.nsa.transplant:transplant"
    options = {
        "block": Option(int, 16, low=1, help="tokens of a block that is selected as a whole"),
        "pooled": Option(
            int, 0, low=0, help="tokens that one compressed key stands for; 0: as many as block"
        ),
        "stride": Option(int, 0, low=0, help="tokens between compressed keys; 0: as many as pooled"),
        "blocks": Option(
            int,
            8,
            low=FIXED,
            help="blocks that a query selects, the first and the last two included",
            scales="context",
        ),
        "window": Option(
            int, 64, low=1, help="tokens of the sliding window, the query's own included", scales="context"
        ),
        "compress": Option(
            str, "mean", choices=("mean", "mlp"), help="compression of a block: its mean, plus a learned MLP"
        ),
    }

    def broken_rule(self, backbone: Backbone, options: Options) -> tuple[str, str] | None:
        """Return (option, broken rule) if compressed blocks don't fit the selected ones, else None."""
        sizes = Sizes.of(options)
        if sizes.pooled > sizes.block:
            return "pooled", f"must be at most block ({sizes.block})"
        if sizes.pooled % sizes.stride or sizes.block % sizes.stride:
            pooled = f" and pooled ({sizes.pooled})" if sizes.pooled != sizes.block else ""
            return "stride", f"must divide block ({sizes.block}){pooled}"
        return None

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Return the options with 0 for `pooled` and `stride` where they are the size that 0 stands for."""
        sizes = Sizes.of(options)
        pooled = 0 if sizes.pooled == sizes.block else sizes.pooled
        return {**options, "pooled": pooled, "stride": 0 if sizes.stride == sizes.pooled else sizes.stride}

    def carry(
        self, backbone: Backbone, options: Options, old: MixerSpec, old_options: Options
    ) -> dict[str, Carry]:
        """Keep the projections of softmax attention; gates and compression are set to come close to it."""
        if not is_softmax(old):
            return {}
        usable = not old_options["gate"] and kv_heads(backbone, old_options) == backbone.num_kv_heads
        same = kept("q", "k", "v", "q_norm", "k_norm") if usable else {}
        return same | {name: Carry(("o",)) for name in ("o", "gate")}

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of q k v o, as in softmax attention."""
        return attention_projections(backbone)

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Return the parameters of the QK norms, the gates, and the MLPs of keys and values."""
        gates = (backbone.dim + 1) * BRANCHES * backbone.num_heads
        width, pooled = backbone.head_dim, Sizes.of(options).pooled
        mlp = pooled * width + (pooled + 1) * width * width  # positions in the block, and two matrices
        return qk_norm_params(backbone) + gates + (2 * mlp if options["compress"] == "mlp" else 0)

    def own_flops(self, backbone: Backbone, options: Options) -> int:
        """Return the FLOPs per token of the gates' map."""
        return 2 * backbone.dim * BRANCHES * backbone.num_heads

    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the FLOPs of a token's three attentions; the token that completes a block compresses it."""
        sizes = Sizes.of(options)
        seen = sizes.complete(context) + sum(min(limit, context) for limit in _limits(sizes))
        new = sizes.complete(context) - sizes.complete(context - 1)
        return self._core_flops(backbone) * seen + self._compress_flops(backbone, options) * new

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Return the mean of `mixing_flops` over a sequence in closed form."""
        sizes = Sizes.of(options)
        seen = sizes.total_complete(length)
        for limit in _limits(sizes):
            full = min(limit, length)
            seen += full * (full + 1) // 2 + (length - full) * full
        new = sizes.complete(length)
        return (self._core_flops(backbone) * seen + self._compress_flops(backbone, options) * new) / length

    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the bytes of keys and values in bfloat16, those of tokens and those of complete blocks."""
        cached = context + Sizes.of(options).complete(context)
        return 2 * 2 * backbone.num_kv_heads * backbone.head_dim * cached

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """Build a `NativeSparseAttention`. Imports torch."""
        from surgery.mixers.nsa.module import NativeSparseAttention

        learned = options["compress"] == "mlp"
        return NativeSparseAttention(backbone, projection, sizes=Sizes.of(options), learned=learned)

    def _core_flops(self, backbone: Backbone) -> int:
        """Return the FLOPs of attending to one token or block: scores, then weighted values."""
        return 4 * backbone.num_heads * backbone.head_dim

    def _compress_flops(self, backbone: Backbone, options: Options) -> int:
        """Return the FLOPs of compressing one block: an MLP for keys and one for values, per head of them."""
        if options["compress"] == "mean":
            return 0
        width = backbone.head_dim
        return 2 * backbone.num_kv_heads * 2 * (Sizes.of(options).pooled + 1) * width * width


def _limits(sizes: Sizes) -> tuple[int, int]:
    """Return the most tokens that the second and the third branch attend to."""
    return sizes.blocks * sizes.block, sizes.window
