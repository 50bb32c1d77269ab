"""Native Sparse Attention as a torch module.

DeepSeek, arXiv 2502.11089; docs/papers.md, Native Sparse Attention.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from surgery.config.backbone import Backbone
from surgery.context import Context
from surgery.mixers.base import MakeProjection
from surgery.mixers.full.module import qk_norms
from surgery.mixers.nsa.branches import Keys, block_attention
from surgery.mixers.nsa.compression import Compression
from surgery.mixers.nsa.sizes import BRANCHES, Sizes
from surgery.ops.attention import attend, with_past
from surgery.ops.rotary import rotate
from surgery.projections.siblings import project


class NativeSparseAttention(nn.Module):
    """o = sum over the branches of sigmoid(W_g x)_branch Attention(q, keys of the branch) (equation 5).

    All branches share rotary keys and values, as in flash-linear-attention; the paper gives each its own.
    W_g is initialised to zero, so that every gate starts at one half.

    The selection has no gradient; what it is made of, the compressed keys, learns from the first branch.
    """

    def __init__(
        self, backbone: Backbone, projection: MakeProjection, *, sizes: Sizes, learned: bool
    ) -> None:
        super().__init__()
        self.head_dim, self.groups, self.sizes = backbone.head_dim, backbone.num_kv_heads, sizes
        self.q, self.k, self.v, self.o = (projection(name) for name in "qkvo")
        self.q_norm, self.k_norm = qk_norms(backbone)
        self.k_compress = Compression(self.head_dim, sizes, learned=learned)
        self.v_compress = Compression(self.head_dim, sizes, learned=learned)
        self.gate = nn.Linear(backbone.dim, BRANCHES * backbone.num_heads)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the mixed tokens."""
        branches = self.branches(*self.attended(x, context), context)
        gates = self.gate(x).sigmoid().unflatten(-1, (BRANCHES, -1)).permute(2, 0, 3, 1)[..., None]
        output = sum(gate.to(y.dtype) * y for gate, y in zip(gates, branches, strict=True))
        return project(output.transpose(1, 2).flatten(2), context, self.o)[0]

    def attended(
        self, x: Float[Tensor, "b t d"], context: Context
    ) -> tuple[Float[Tensor, "b h t e"], Float[Tensor, "b g t e"], Float[Tensor, "b g t e"]]:
        """Return queries, keys and values of the new tokens."""
        q, k, v = (self._heads(y) for y in project(x, context, self.q, self.k, self.v))
        return rotate(self.q_norm(q), context.rotary), rotate(self.k_norm(k), context.rotary), v

    def branches(
        self,
        q: Float[Tensor, "b h t e"],
        k: Float[Tensor, "b g t e"],
        v: Float[Tensor, "b g t e"],
        context: Context,
    ) -> list[Float[Tensor, "b h t e"]]:
        """Return the attention over compressed blocks, over selected blocks, and in the window."""
        past = context.state
        k, v = with_past(context, None, k, v)
        ordered = _from_first(k, context), _from_first(v, context)
        known = self.sizes.complete(_fewest_seen(context))
        old = past[2:] if past is not None else (None, None)
        pooled = (
            self.k_compress.extended(old[0], ordered[0], known),
            self.v_compress.extended(old[1], ordered[1], known),
        )
        if context.state is not None:
            context.keep((*context.state, *pooled))
        compressed, selected = block_attention(
            q.unflatten(1, (self.groups, -1)).flatten(0, 1),
            Keys(*(y.flatten(0, 1) for y in ordered)),
            Keys(*(y.flatten(0, 1) for y in pooled)),
            _positions(context, self.groups),
            self.sizes,
            context.seen,
        )
        first = max(0, k.shape[2] - (self.sizes.window - 1 + q.shape[2]))
        return [
            compressed.unflatten(0, (-1, self.groups)).flatten(1, 2),
            attend(q, k, v, context)
            if selected is None
            else selected.unflatten(0, (-1, self.groups)).flatten(1, 2),
            attend(q, k[:, :, first:], v[:, :, first:], context, window=self.sizes.window),
        ]

    def _heads(self, x: Float[Tensor, "b t hd"]) -> Float[Tensor, "b h t d"]:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return heads


def _from_first(x: Float[Tensor, "b g s d"], context: Context) -> Float[Tensor, "b g s d"]:
    """Move every row's real tokens to its start, since blocks are counted from there."""
    if context.padding is None:
        return x
    columns = torch.arange(x.shape[2], device=x.device) + (~context.padding).sum(1, keepdim=True)
    return x.take_along_dim(columns.clamp(max=x.shape[2] - 1)[:, None, :, None], dim=2)


def _positions(context: Context, groups: int) -> Int[Tensor, "n t"]:
    """Return the new tokens' positions for each group of every row; padding is at position 0."""
    device, length = context.rotary[0].device, context.rotary[0].shape[1]
    positions = torch.arange(context.seen, context.seen + length, device=device)[None]
    if context.padding is None:
        return positions
    positions = (positions - (~context.padding).sum(1, keepdim=True)).clamp(min=0)
    return positions.repeat_interleave(groups, 0)


def _fewest_seen(context: Context) -> int:
    """Return the number of cached real tokens of the row that has the fewest."""
    if context.padding is None or context.new_real is None:
        return context.seen
    return int((context.padding.sum(1) - context.new_real.sum(1)).min())
