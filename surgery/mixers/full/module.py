"""Full causal attention as a torch module."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.backbone import Backbone
from surgery.context import Context
from surgery.mixers.base import MakeProjection
from surgery.rotary import rotate


class HeadNorm(nn.RMSNorm):
    """RMSNorm in its input's dtype: under autocast heads are bfloat16 and the weight is not, which would
    miss the fused kernel and cache keys in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class FullAttention(nn.Module):
    """Rotary softmax attention with grouped key/value heads, computed by PyTorch's SDPA."""

    def __init__(self, backbone: Backbone, projection: MakeProjection) -> None:
        super().__init__()
        self.head_dim = backbone.head_dim
        self.grouped = backbone.num_kv_heads != backbone.num_heads
        self.q, self.k, self.v, self.o = (projection(name) for name in "qkvo")
        norm = backbone.qk_norm
        self.q_norm = HeadNorm(self.head_dim, eps=backbone.norm_eps) if norm else nn.Identity()
        self.k_norm = HeadNorm(self.head_dim, eps=backbone.norm_eps) if norm else nn.Identity()

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        q = rotate(self.q_norm(self._heads(self.q(x, context))), context.rotary)
        k = rotate(self.k_norm(self._heads(self.k(x, context))), context.rotary)
        v = self._heads(self.v(x, context))
        past = context.state
        if past is not None:
            k = torch.cat((past[0], k), dim=2)
            v = torch.cat((past[1], v), dim=2)
        context.keep((k, v))
        mixed = F.scaled_dot_product_attention(
            q, k, v,
            attn_mask=context.mask,
            is_causal=context.mask is None and q.shape[2] > 1,
            enable_gqa=self.grouped,
        )  # fmt: skip
        y: Tensor = self.o(mixed.transpose(1, 2).flatten(2), context)
        return y

    def _heads(self, x: Float[Tensor, "b t hd"]) -> Float[Tensor, "b h t d"]:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return heads
