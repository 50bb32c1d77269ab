"""Sparse top-k attention as a torch module.

DeepSeek-V3.2, arXiv 2512.02556; docs/papers.md, Sparse attention.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from surgery.config.backbone import Backbone
from surgery.context import Context
from surgery.mixers.base import MakeProjection
from surgery.mixers.full.module import qk_norms
from surgery.mixers.sparse.attention import Heads
from surgery.mixers.sparse.gathered import gathered_attention
from surgery.mixers.sparse.indexer import Index, LightningIndexer
from surgery.mixers.sparse.masked import masked_attention
from surgery.mixers.sparse.select import real_rows
from surgery.ops.attention import with_past
from surgery.ops.rotary import rotate
from surgery.projections.siblings import project

# Keys and values are gathered for sequences longer than this multiple of top_k, if every head has its own
# keys; fewer key heads lower the threshold in proportion. Measured at 8 heads of 64: at the threshold
# training takes about as long either way, on one CPU core and on an H100.
GATHER_FROM = {"cpu": 32, "accelerator": 100}


class SparseAttention(nn.Module):
    """Rotary grouped-query attention over the `top_k` tokens with the highest index scores.

    Each query has one set of tokens, shared by all heads; its own token is not guaranteed to be selected.

    The indexer is trained by KL(attention || softmax(scores)) over the selected tokens, weighted by
    `index_weight`. Its inputs and the target are detached and the selection has no gradient, so that the KL
    trains only the indexer and the model's loss only the rest (DeepSeek-V3.2, section 2.1).
    """

    def __init__(
        self,
        backbone: Backbone,
        projection: MakeProjection,
        *,
        top_k: int,
        index_heads: int,
        index_dim: int,
        index_weight: float,
    ) -> None:
        super().__init__()
        self.head_dim, self.top_k, self.index_weight = backbone.head_dim, top_k, index_weight
        self.q, self.k, self.v, self.o = (projection(name) for name in "qkvo")
        self.q_norm, self.k_norm = qk_norms(backbone)
        self.indexer = LightningIndexer(backbone, index_heads, index_dim)

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the mixed tokens; in training, the context's losses receive the indexer's KL."""
        q, k, v = (self._heads(y) for y in project(x, context, self.q, self.k, self.v))
        q = rotate(self.q_norm(q), context.rotary)
        k = rotate(self.k_norm(k), context.rotary)
        detached = x.detach()
        index_key = self.indexer.key(detached, context.rotary).to(v.dtype)
        k, v, index_key = with_past(context, None, k, v, index_key)
        index = Index(*self.indexer.query(detached, context.rotary), index_key[:, 0])
        with_kl = self.training and self.index_weight > 0
        length = x.shape[1]
        attention = gathered_attention if self._gathers(q, k) else masked_attention
        output, kl = attention(Heads(q, k, v), index, context, self.top_k, with_kl=with_kl)
        if with_kl:
            real = real_rows(context, slice(0, length))
            rows = x.shape[0] * length if real is None else real.sum().clamp(min=1)
            context.losses.append(self.index_weight * kl / rows)
        return project(output.transpose(1, 2).flatten(2), context, self.o)[0]

    def _gathers(self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g s d"]) -> bool:
        """Return whether gathering is faster; for a single query it always is."""
        times = GATHER_FROM["cpu" if q.device.type == "cpu" else "accelerator"]
        return q.shape[2] == 1 or k.shape[2] * q.shape[1] > times * self.top_k * k.shape[1]

    def _heads(self, x: Float[Tensor, "b t hd"]) -> Float[Tensor, "b h t d"]:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return heads
