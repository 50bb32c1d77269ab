"""The lightning indexer: cheap scores for selecting the tokens that a query attends to, and their loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.config.backbone import Backbone
from surgery.ops.plain import is_plain
from surgery.ops.rotary import Rotary, rotate
from surgery.projections.dense.module import Dense

NORM_EPS = 1e-6  # of the key's LayerNorm, from DeepSeek's code


class LightningIndexer(nn.Module):
    """I_ts = sum_j w_tj ReLU(q_tj . k_s), with one key per token for all heads j (DeepSeek-V3.2, eq. 1).

    As in DeepSeek's code: LayerNorm on the key, rotary positions in the first half of the channels with
    Llama's pairs, none in the other half, w scaled by heads^-1/2 dim^-1/2, scores in float32. Its Hadamard
    transform of q and k and its fp8 are omitted, since they do not change the scores. Unlike there, q is
    computed from the layer's input, since this attention has no latent query as MLA has.

    The context's angles are for the attention's head_dim. Every n-th of its frequency pairs is used, which
    are the frequencies of a rotary embedding with fewer channels; if no n gives half the channels, fewer are
    rotated.
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
        """Return the key of every token, in float32 or better."""
        key = self.k(x)
        dtype = torch.promote_types(key.dtype, torch.float32)
        if is_plain(self.k_norm, nn.LayerNorm):
            weight, bias = self.k_norm.weight.to(dtype), self.k_norm.bias.to(dtype)
            key = F.layer_norm(key.to(dtype), (self.size,), weight, bias, NORM_EPS)
        else:
            key = self.k_norm(key).to(dtype)
        return self._rotate(key[:, None], rotary)

    def query(
        self, x: Float[Tensor, "b t d"], rotary: Rotary
    ) -> tuple[Float[Tensor, "b t j i"], Float[Tensor, "b t j"]]:
        """Return queries and head weights of every token, in float32 or better."""
        q, weights = self.q(x), self.weights(x)
        dtype = torch.promote_types(q.dtype, torch.float32)
        heads = q.to(dtype).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
        scale = (self.heads * self.size) ** -0.5
        return self._rotate(heads, rotary).transpose(1, 2), weights.to(dtype) * scale

    def _rotate(self, x: Float[Tensor, "b j t i"], rotary: Rotary) -> Float[Tensor, "b j t i"]:
        rotated, unrotated = x.split([2 * self.pairs, self.size - 2 * self.pairs], dim=-1)
        every = rotary[0].shape[-1] // 2 // self.pairs
        cos, sin = (table.chunk(2, dim=-1)[0][..., ::every].repeat(1, 1, 2) for table in rotary)
        return torch.cat((rotate(rotated, (cos, sin)), unrotated), dim=-1)


def index_scores(
    q: Float[Tensor, "n t j i"], weights: Float[Tensor, "n t j"], keys: Float[Tensor, "n s i"]
) -> Float[Tensor, "n t s"]:
    """Return I of every query and key in the queries' dtype, also under autocast."""
    groups, length, heads, _ = q.shape
    with torch.autocast(q.device.type, enabled=False):
        products = torch.bmm(q.flatten(1, 2), keys.to(q.dtype).transpose(1, 2)).relu()
        products = products.view(groups * length, heads, keys.shape[1])
        scores = torch.bmm(weights.reshape(groups * length, 1, heads), products)
    return scores.view(groups, length, keys.shape[1])


def index_kl(
    target: Float[Tensor, "b t s"],
    scores: Float[Tensor, "b t s"],
    chosen: Bool[Tensor, "#b t s"],
    real: Bool[Tensor, "b t"] | None,
) -> Float[Tensor, ""]:
    """Return KL(target || softmax(scores)) over the chosen tokens, in nats, summed over the real rows.

    `target` is the attention's probability of every chosen token, averaged over the heads: DeepSeek-V3.2,
    eq. 4, sums them and divides by the sum, which is the number of heads.
    """
    logs = scores.masked_fill(~chosen, -torch.inf).log_softmax(-1).masked_fill(~chosen, 0)
    target = target.to(logs.dtype)
    rows = (torch.xlogy(target, target) - target * logs).sum(-1)
    return (rows if real is None else rows * real).sum()


class Index(NamedTuple):
    """Outputs of the indexer: queries and head weights of the new tokens, keys of all tokens."""

    q: Float[Tensor, "b t j i"]
    weights: Float[Tensor, "b t j"]
    keys: Float[Tensor, "b s i"]

    def scores(self, end: int) -> Float[Tensor, "b t {end}"]:
        """Return I over the first `end` tokens."""
        return index_scores(self.q, self.weights, self.keys[:, :end])

    def split(self, sizes: list[int]) -> list[Index]:
        """Split into parts of these numbers of new tokens, each with all keys."""
        pieces = zip(self.q.split(sizes, 1), self.weights.split(sizes, 1), strict=True)
        return [Index(q, weights, self.keys) for q, weights in pieces]

    def rows(self, rows: slice) -> Index:
        """Return the index of some new tokens, with all keys."""
        return Index(self.q[:, rows], self.weights[:, rows], self.keys)
