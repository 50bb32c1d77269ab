"""HGRN2 in the place of softmax attention: its values, and forget gates by its distances."""

from __future__ import annotations

from typing import Any

import torch

from surgery.mixers.patterns import attention_pattern
from surgery.mixers.transplant import LONGEST, Text, copy_values, fit_output, solve_for, source_heads

SPREAD = 8.0  # channels of a head remember from 1 / SPREAD to SPREAD times the mean distance of attention


@torch.no_grad()
def transplant(new: Any, old: Any, text: Text) -> None:
    """Start from attention's values, with forget gates that no token changes yet.

    A channel fades by half over a distance around the mean one of the attention. Queries, new and random,
    read some channels more than others, and `o` is fitted to that. Without a text the mixer is silent.
    """
    sizes = new.sizes
    copy_values(new, old, sizes.heads, sizes.value)
    if text:
        distance = attention_pattern(old, text, LONGEST).distance.clamp(min=1)
        channels = SPREAD ** torch.linspace(-1, 1, sizes.key)
        half_lives = distance[source_heads(len(distance), sizes.heads), None] * channels
        forget = torch.exp2(-1 / half_lives).flatten()
        share = ((forget - new.lower_bound) / (1 - new.lower_bound)).clamp(min=0.01)
        one = solve_for(text, [torch.ones_like(x[..., :1]) for x, _ in text])  # (1, d): x -> about 1
        new.k.weight.copy_(torch.logit(share)[:, None] * one)
        if new.k.bias is not None:
            new.k.bias.zero_()
    same = sizes.heads * sizes.value == old.o.weight.shape[1]
    fit_output(new, old, text, prior=old.o.weight if same else None)
