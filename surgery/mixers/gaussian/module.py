"""Gaussian-kernel attention as a torch module, computed by SDPA.

GKA, arXiv 2605.02144; docs/papers.md, Gaussian-kernel attention.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.config.backbone import Backbone
from surgery.context import Context
from surgery.mixers.base import MakeProjection
from surgery.mixers.gaussian.sizes import PAD
from surgery.ops.attention import attend, narrower, with_past
from surgery.ops.rotary import rotate
from surgery.projections.siblings import project

TINY_EPS = 1e-30  # only prevents 0 / 0 for a head of zeros


class GaussianAttention(nn.Module):
    """y_i = sum_j W_ij v_j with W_ij = K_ij / sum_j K_ij, K_ij = exp(-|q_i - k_j|^2 / (2 sigma_h^2)), j <= i.

    q = k = v = the heads of x (`keep` none), or q and k are projected and v = the heads of x (`keep` qk).
    `norm` first scales them to unit RMS. RoPE is applied to q and k and, if `value` is rotated, to v.

    Parameters: `log_sigma` (heads,) and the projections. The initial sigma, which the paper does not give, is
    sqrt(head_dim) / 2: a unit-RMS token then outweighs a random one by e^4, so that a token neither copies
    itself nor averages all.
    """

    def __init__(
        self,
        backbone: Backbone,
        projection: MakeProjection,
        *,
        keep: str,
        value: str,
        norm: bool,
        window: int,
    ) -> None:
        super().__init__()
        self.head_dim, self.norm = backbone.head_dim, norm
        self.rotated = value == "rotated" and keep == "none"
        self.window = window or None
        self.q, self.k = (projection(name) if keep == "qk" else None for name in "qk")
        self.o = projection("o")
        heads = backbone.dim // backbone.head_dim
        self.log_sigma = nn.Parameter(torch.full((heads,), math.log(self.head_dim**0.5 / 2)))

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the mixed tokens."""
        heads = self._heads(x)
        if self.q is None or self.k is None:
            q = k = rotate(heads, context.rotary)
        else:
            q, k = (rotate(self._heads(y), context.rotary) for y in project(x, context, self.q, self.k))
        v = k if self.rotated else heads.to(k.dtype)
        window = narrower(self.window, context)
        k, *rest = with_past(context, window, *((k,) if self.rotated else (k, v)))
        v = rest[0] if rest else k
        return project(self._mix(q, k, v, context, window).transpose(1, 2).flatten(2), context, self.o)[0]

    def _mix(
        self,
        q: Float[Tensor, "b h t d"],
        k: Float[Tensor, "b h s d"],
        v: Float[Tensor, "b h s d"],
        context: Context,
        window: int | None,
    ) -> Float[Tensor, "b h t d"]:
        """Compute the attention output by softmax attention.

        exp(-|q - k|^2 / (2 s)) over its row sum is softmax(q.k / s - |k|^2 / (2 s)), s = sigma^2: |q|^2
        cancels. Normed keys have equal lengths, so that their term cancels too; otherwise it is an additional
        channel, multiplied by a one in the query.
        """
        inverse = torch.exp(-2 * self.log_sigma).to(q.dtype)[:, None, None]
        if self.norm:
            return attend(q * inverse, k, v, context, window=window, scale=1.0)
        length = -0.5 * k.square().sum(-1, keepdim=True)
        padding = -(self.head_dim + 1) % PAD
        keys = F.pad(torch.cat((k, length), dim=-1), (0, padding))
        queries = F.pad(torch.cat((q, torch.ones_like(q[..., :1])), dim=-1) * inverse, (0, padding))
        values = F.pad(v, (0, padding + 1))
        output: Tensor = attend(queries, keys, values, context, window=window, scale=1.0)
        return output[..., : self.head_dim]

    def _heads(self, x: Float[Tensor, "b t hd"]) -> Float[Tensor, "b h t d"]:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if self.norm:
            # a negligible eps, since the identity in `_mix` requires equal lengths
            heads = F.rms_norm(heads, (self.head_dim,), eps=TINY_EPS)
        return heads
