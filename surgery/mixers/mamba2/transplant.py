"""Mamba-2 in the place of softmax attention: its projections where they have a meaning, rates by data.

Queries become C, keys B and values x, as in MambaInLlama (arXiv 2408.15237), with steps by the attention's
distances, as Taylor-Calibrate (arXiv 2606.16429) sets them, and least squares for `o`.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from surgery.mixers.patterns import attention_pattern
from surgery.mixers.transplant import (
    LONGEST,
    OPEN,
    Text,
    attention_heads,
    copy_values,
    factors,
    fit_output,
    shrink,
    solve_for,
    source_heads,
)


@torch.no_grad()
def transplant(new: Any, old: Any, text: Text) -> None:
    """Start from attention's projections, with rates from its pattern on the text and an open gate.

    Heads of a group share queries and keys: these keep the strongest directions of the sum of their products
    q.k. The convolution lets its input through. Without a text the rates are those of a new mixer, and the
    mixer is silent.
    """
    sizes = new.sizes
    _copy_queries_and_keys(new, old)
    copy_values(new, old, sizes.heads, sizes.value)
    if new.conv is not None:
        new.conv.zero_()
        new.conv[:, 0, -1] = 1
        new.conv_bias.zero_()
    if text:
        for projection in (new.q, new.k, new.v):
            shrink(projection, text)
        distance = attention_pattern(old, text, LONGEST).distance.clamp(min=1)
        new.step.weight.zero_()
        new.dt_bias.fill_(math.log(math.expm1(1)))  # a step of 1
        new.A_log.copy_((math.log(2) / distance[source_heads(len(distance), sizes.heads)]).log())
        new.D.zero_()  # attention has no path beside it
        one = solve_for(text, [torch.full_like(x[..., :1], OPEN) for x, _ in text])
        new.output_gate.weight.copy_(one.expand_as(new.output_gate.weight))
    fit_output(new, old, text)


def _copy_queries_and_keys(new: Any, old: Any) -> None:
    sizes = new.sizes
    q, k = (attention_heads(old, name) for name in "qk")
    sources = torch.tensor(source_heads(len(q), sizes.heads)).unflatten(0, (sizes.groups, -1))
    for projection in (new.q, new.k):
        projection.weight.zero_()
        if projection.bias is not None:
            projection.bias.zero_()
    for group, heads in enumerate(sources.tolist()):
        left, right = factors(q[heads].flatten(0, 1).T, k[heads].flatten(0, 1), sizes.key)
        rows = slice(group * sizes.key, group * sizes.key + len(right))
        new.q.weight[rows], new.k.weight[rows] = left.T, right
