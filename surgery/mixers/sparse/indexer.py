"""The lightning indexer: cheap scores that say which tokens a query should attend to, and their loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.config.backbone import Backbone
from surgery.ops.plain import is_plain
from surgery.ops.rotary import rotate
from surgery.projections.dense.module import Dense

Rotary = tuple[Float[Tensor, "b t h"], Float[Tensor, "b t h"]]
NORM_EPS = 1e-6  # of the key's LayerNorm, as in DeepSeek's code


class LightningIndexer(nn.Module):
    """I_ts = sum_j w_tj ReLU(q_tj . k_s), with one key a token for all heads j (DeepSeek-V3.2, eq. 1).

    As in DeepSeek's code: LayerNorm on the key, rotary positions in the first half of the channels in Llama's
    pairs, the other half without, w scaled by heads^-1/2 dim^-1/2, scores in float32. Left out, since they
    leave the scores what they are: its Hadamard transform of q and k, and fp8. Apart from it, q comes from
    the layer's input, for there is no latent query here as in its MLA.

    The context's angles are for the attention's head_dim. Of its frequency pairs every n-th is taken, which
    are those of a rotary embedding of fewer channels; where no n gives half the channels, fewer are rotated.
    """

    def __init__(self, backbone: Backbone, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        pairs = backbone.head_dim // 2
        self.pairs = max(n for n in range(1, size // 4 + 1) if pairs % n == 0)
        self.q = Dense(backbone.dim, heads * size, bias=False)
        self.k = Dense(backbone.dim, size, bias=False)
        self.weights = Dense(backbone.dim, heads, bias=False)
        self.k_norm = nn.LayerNorm(size, eps=NORM_EPS)

    def key(self, x: Float[Tensor, "b t d"], rotary: Rotary) -> Float[Tensor, "b 1 t i"]:
        key = self.k(x)
        exact = torch.promote_types(key.dtype, torch.float32)
        if is_plain(self.k_norm, nn.LayerNorm):
            weight, bias = self.k_norm.weight.to(exact), self.k_norm.bias.to(exact)
            key = F.layer_norm(key.to(exact), (self.size,), weight, bias, NORM_EPS)
        else:
            key = self.k_norm(key).to(exact)
        return self._rotate(key[:, None], rotary)

    def query(
        self, x: Float[Tensor, "b t d"], rotary: Rotary
    ) -> tuple[Float[Tensor, "b t j i"], Float[Tensor, "b t j"]]:
        """Queries and head weights of every token, in float32 or better."""
        q, weights = self.q(x), self.weights(x)
        exact = torch.promote_types(q.dtype, torch.float32)
        heads = q.to(exact).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
        scale = (self.heads * self.size) ** -0.5
        return self._rotate(heads, rotary).transpose(1, 2), weights.to(exact) * scale

    def _rotate(self, x: Float[Tensor, "b j t i"], rotary: Rotary) -> Float[Tensor, "b j t i"]:
        def fewer(table: Tensor) -> Tensor:
            pairs = table.shape[-1] // 2
            return table[..., : pairs : pairs // self.pairs].repeat(1, 1, 2)

        turned, kept = x.split([2 * self.pairs, self.size - 2 * self.pairs], dim=-1)
        return torch.cat((rotate(turned, (fewer(rotary[0]), fewer(rotary[1]))), kept), dim=-1)


def index_scores(
    q: Float[Tensor, "n t j i"], weights: Float[Tensor, "n t j"], keys: Float[Tensor, "n s i"]
) -> Float[Tensor, "n t s"]:
    """I of every query and key, in the queries' precision, under autocast too."""
    groups, length, heads, _ = q.shape
    with torch.autocast(q.device.type, enabled=False):
        products = torch.bmm(q.flatten(1, 2), keys.to(q.dtype).transpose(1, 2)).relu()
        products = products.view(groups * length, heads, keys.shape[1])
        scores = torch.bmm(weights.reshape(groups * length, 1, heads), products)
    return scores.view(groups, length, keys.shape[1])


def index_kl(
    target: Float[Tensor, "b t s"],
    scores: Float[Tensor, "b t s"],
    chosen: Bool[Tensor, "b t s"],
    real: Bool[Tensor, "b t"] | None,
) -> Float[Tensor, ""]:
    """KL(target || softmax(scores)) over the chosen tokens, in nats, summed over the real rows.

    `target` is the attention's probability of every chosen token, mean over the heads: DeepSeek-V3.2, eq. 4,
    sums them and divides by the sum, which is the number of heads.
    """
    logs = scores.masked_fill(~chosen, -torch.inf).log_softmax(-1).masked_fill(~chosen, 0)
    target = target.to(logs.dtype)
    rows = (torch.xlogy(target, target) - target * logs).sum(-1)
    return (rows if real is None else rows * real).sum()


class Index(NamedTuple):
    """What the indexer says of a piece of text: queries and head weights of its new tokens, keys of all."""

    q: Float[Tensor, "b t j i"]
    weights: Float[Tensor, "b t j"]
    keys: Float[Tensor, "b s i"]

    def scores(self, end: int) -> Float[Tensor, "b t end"]:
        """I over the first `end` tokens."""
        return index_scores(self.q, self.weights, self.keys[:, :end])

    def split(self, sizes: list[int]) -> list[Index]:
        """Pieces of so many new tokens."""
        pieces = zip(self.q.split(sizes, 1), self.weights.split(sizes, 1), strict=True)
        return [Index(q, weights, self.keys) for q, weights in pieces]

    def rows(self, rows: slice) -> Index:
        return Index(self.q[:, rows], self.weights[:, rows], self.keys)
