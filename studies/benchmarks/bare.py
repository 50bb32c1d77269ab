"""A dense decoder in plain torch, as a hand-written reference.

It shares no code with `surgery`, so that the overhead of our own code becomes visible.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.config.backbone import Backbone


class _Block(nn.Module):
    def __init__(self, sizes: Backbone) -> None:
        super().__init__()
        dim, width = sizes.dim, sizes.head_dim
        self.heads = sizes.num_heads, sizes.num_kv_heads, sizes.num_kv_heads
        self.width = width
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=sizes.norm_eps) for _ in range(2))
        self.qkv = nn.Linear(dim, sum(self.heads) * width, bias=False)
        self.o = nn.Linear(sizes.num_heads * width, dim, bias=False)
        self.gate_up = nn.Linear(dim, 2 * sizes.ffn_dim, bias=False)
        self.down = nn.Linear(sizes.ffn_dim, dim, bias=False)

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = h.shape
        parts = self.qkv(self.norms[0](h)).split([n * self.width for n in self.heads], -1)
        q, k, v = (x.view(batch, length, -1, self.width).transpose(1, 2) for x in parts)
        q, k = (_rotate(x, cos, sin) for x in (q, k))
        attended = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self.heads[0] != self.heads[1]
        )
        h = h + self.o(attended.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(self.norms[1](h)).chunk(2, -1)
        out: Tensor = h + self.down(F.silu(gate) * up)
        return out


class BareModel(nn.Module):
    """The dense model of a backbone, without biases, QK norm and rotary scaling: token ids to logits."""

    def __init__(self, sizes: Backbone, length: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(sizes.vocab_size, sizes.dim)
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.num_layers))
        self.norm = nn.RMSNorm(sizes.dim, eps=sizes.norm_eps)
        self.head = nn.Linear(sizes.dim, sizes.vocab_size, bias=False)
        if sizes.tie_embeddings:
            self.head.weight = self.embed.weight
        rates = sizes.rope_theta ** (-torch.arange(0, sizes.head_dim, 2) / sizes.head_dim)
        angles = (torch.arange(length)[:, None] * rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t vocabulary"]:
        """Return the logits of token ids."""
        h = self.embed(tokens)
        for block in self.blocks:
            h = block(h, self.cos, self.sin)
        logits: Tensor = self.head(self.norm(h))
        return logits


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-second, first), -1) * sin.to(x.dtype)
