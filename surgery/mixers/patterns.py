"""The attention of softmax attention on a text: probabilities, their mean distance and entropy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.context import Context
from surgery.mixers.transplant import Text
from surgery.ops.rotary import rotate


class Pattern(NamedTuple):
    """Means over tokens for each head: the distance of attention in tokens, and its entropy.

    The entropy is relative to that of a uniform distribution over the same tokens.
    """

    distance: Float[Tensor, " h"]
    entropy: Float[Tensor, " h"]


def attention_pattern(attention: Any, text: Text, longest: int) -> Pattern:
    """Return the pattern over the first `longest` tokens of every sequence."""
    distances, entropies = [], []
    for x, context in text:
        p = probabilities(attention, *shortened(x, context, longest))
        index = torch.arange(p.shape[-1], device=x.device)
        distances.append((p * (index[:, None] - index)).sum(-1).flatten(2))
        uniform = (index[1:] + 1.0).log()  # of the first token it is 0
        entropies.append(-torch.xlogy(p, p).sum(-1)[..., 1:] / uniform)
    return Pattern(*(torch.cat(values, dim=2).mean((0, 2)) for values in (distances, entropies)))


def shortened(x: Tensor, context: Context, longest: int) -> tuple[Tensor, Context]:
    """Return the first `longest` tokens."""
    cos, sin = context.rotary
    return x[:, :longest], Context((cos[:, :longest], sin[:, :longest]))


def probabilities(attention: Any, x: Float[Tensor, "1 t d"], context: Context) -> Float[Tensor, "1 h t t"]:
    """Return the attention weights of every head and token."""
    q, k = (attention._heads(y) for y in (attention.q(x), attention.k(x)))
    q = rotate(attention.q_norm(q), context.rotary)
    k = rotate(attention.k_norm(k), context.rotary).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = q @ k.transpose(-1, -2) * attention.head_dim**-0.5
    length = x.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
    if attention.window is not None:
        seen = seen.triu(1 - attention.window)
    p: Tensor = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return p


def every(text: Text, steps: int) -> Iterator[int]:
    """Yield indices of the text's sequences, again and again, `steps` of them."""
    for step in range(steps):
        yield step % len(text)
