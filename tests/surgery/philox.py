"""Philox4x32-7 and the noise that the HDPL kernel makes of it, in plain integer arithmetic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


def philox(key: int, counter: list[Tensor], rounds: int = 7) -> list[Tensor]:
    """Four words out of four words (Salmon et al. 2011), each a tensor of int64 below 2^32."""
    low, high = key & WORD, key >> 32 & WORD
    a, b, c, d = counter
    for _ in range(rounds):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57  # wraps at 64 bits, which are all that count
        a, b, c, d = (
            (second >> 32 & WORD) ^ b ^ low,
            second & WORD,
            (first >> 32 & WORD) ^ d ^ high,
            first & WORD,
        )
        low, high = (low + 0x9E3779B9) & WORD, (high + 0xBB67AE85) & WORD
    return [a, b, c, d]


def normals(seed: int, tokens: int, width: int) -> Tensor:
    """The noise (tokens, width) of a seed in float64: four neighbouring tokens share a counter."""
    groups = -(-tokens // 4)
    group = torch.arange(groups)[:, None].expand(groups, width)
    latent = torch.arange(width)[None].expand(groups, width)
    none = torch.zeros_like(group)
    words = philox(seed, [group, latent, none, none])
    result = []
    for first, second in (words[:2], words[2:]):
        radius = (-2 * ((first + 0.5).double() / 2**32).log()).sqrt()
        angle = 2 * math.pi * (second - (second >> 31 << 32)).double() / 2**32  # as signed
        result += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(result, dim=1).flatten(0, 1)[:tokens]
