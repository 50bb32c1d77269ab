"""Softmax attention as a torch module, over the whole past or a sliding window, optionally gated."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.config.backbone import Backbone
from surgery.context import Context
from surgery.mixers.base import MakeProjection
from surgery.ops.attention import attend, narrower
from surgery.ops.rotary import rotate
from surgery.ops.sinks import with_sinks
from surgery.projections.siblings import project


class HeadNorm(nn.RMSNorm):
    """RMSNorm in its input's dtype.

    Under autocast heads are bfloat16 and the weight is float32, which would bypass the fused kernel and cache
    keys in float32.
    """

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Return the normed heads."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class TokenNorm(HeadNorm):
    """RMSNorm over all heads of a token together (OLMo-2, arXiv 2501.00656, section 2.2)."""

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        """Return the normed heads."""
        normed = super().forward(x.transpose(1, 2).flatten(2))
        heads: Tensor = normed.unflatten(-1, (x.shape[1], -1)).transpose(1, 2)
        return heads


def qk_norms(backbone: Backbone, kv_heads: int | None = None) -> tuple[nn.Module, nn.Module]:
    """Return the norms of query heads and of key heads, both called on (b h t d).

    `kv_heads`: number of key heads; None: the backbone's.
    """
    if not backbone.qk_norm:
        return nn.Identity(), nn.Identity()
    heads = backbone.num_heads, kv_heads or backbone.num_kv_heads
    width, eps = backbone.head_dim, backbone.norm_eps
    if backbone.joint_qk_norm:
        return TokenNorm(heads[0] * width, eps=eps), TokenNorm(heads[1] * width, eps=eps)
    return HeadNorm(width, eps=eps), HeadNorm(width, eps=eps)


class SoftmaxAttention(nn.Module):
    """Rotary softmax attention with grouped key/value heads, computed by PyTorch's SDPA.

    Args:
        backbone: sizes of the model.
        projection: builds the projection of a name.
        kv_heads: number of key/value heads.
        gated: multiply heads by sigmoid(W_g x) before `o`. W_g is initialised to zero, so that every gate
            starts at one half (Qiu et al. 2505.06708, G1; LT2, arXiv 2605.20670).
        window: tokens that a query sees, itself included; None: all.
        sinks: first tokens of the text that a query sees too.
    """

    def __init__(
        self,
        backbone: Backbone,
        projection: MakeProjection,
        *,
        kv_heads: int,
        gated: bool,
        window: int | None = None,
        sinks: int = 0,
    ) -> None:
        super().__init__()
        self.head_dim, self.window, self.sinks = backbone.head_dim, window, sinks
        self.q, self.k, self.v, self.o = (projection(name) for name in "qkvo")
        self.q_norm, self.k_norm = qk_norms(backbone, kv_heads)
        self.gate = None
        if gated:
            self.gate = nn.Linear(backbone.dim, backbone.num_heads * self.head_dim, bias=False)
            nn.init.zeros_(self.gate.weight)

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the mixed tokens."""
        q, k, v = (self._heads(y) for y in project(x, context, self.q, self.k, self.v))
        q = rotate(self.q_norm(q), context.rotary)
        k = rotate(self.k_norm(k), context.rotary)
        window = narrower(self.window, context)
        k, v, sinks = with_sinks(context, window, self.sinks, k, v)
        output = attend(q, k, v, context, window=window, sinks=sinks).transpose(1, 2).flatten(2)
        if self.gate is not None:
            output = output * self.gate(x).sigmoid()
        return project(output, context, self.o)[0]

    def _heads(self, x: Float[Tensor, "b t hd"]) -> Float[Tensor, "b h t d"]:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return heads
