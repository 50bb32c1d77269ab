"""The delta rule in the place of softmax attention: its projections where they have a meaning, rates by data.

Taylor-Calibrate, arXiv 2606.16429, with an output gate by regression and least squares for `o`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.mixers.patterns import Pattern, attention_pattern
from surgery.mixers.transplant import (
    LONGEST,
    Text,
    factors,
    fit_output,
    relative_sizes,
    repeat_heads,
    shrink,
    solve_for,
    source_heads,
)

# (new mixer, steps of each head): sets the decay of each head to exp(-step), whatever the input.
SetDecay = Callable[[Any, Tensor], None]
# (new mixer, text, sizes (1, t, old heads)): sets the output gate to a regression of relative sizes.
SetGate = Callable[[Any, Text, list[Tensor]], None]


@torch.no_grad()
def start_from_attention(new: Any, old: Any, text: Text, *, set_decay: SetDecay, set_gate: SetGate) -> None:
    """Start from attention's projections, with rates and gates from its pattern on the text.

    Keys and values are repeated over the queries' groups, and the convolution lets its input through. A head
    of another width keeps the strongest directions of its products q.k and o.v. Without a text the rates
    are those of a new mixer, and the mixer is silent.
    """
    _copy_projections(new, old)
    if new.conv is not None:
        new.conv.zero_()
        new.conv[:, 0, -1] = 1
    if text:
        shrink(new.v, text)  # their size has no other effect, since the output is normed
        _set_rates(new, old, text, set_decay)
        if new.output_gate is not None:
            set_gate(new, text, relative_sizes(old, text))
    same = new.sizes.heads * new.sizes.value == old.o.weight.shape[1]
    fit_output(new, old, text, prior=old.o.weight if same else None)


def _copy_projections(new: Any, old: Any) -> None:
    """Copy q, k and v, head by head."""
    sizes, width = new.sizes, old.head_dim
    heads = old.q.weight.shape[0] // width
    groups = heads * width // old.k.weight.shape[0]
    full = {"q": old.q.state_dict()} | {
        name: repeat_heads(getattr(old, name), width, groups) for name in "kv"
    }
    by_head = {name: full[name]["weight"].unflatten(0, (heads, width)) for name in "qkv"}
    outputs = old.o.weight.unflatten(1, (heads, width)).transpose(0, 1)
    for index in range(sizes.heads):
        head = index * heads // sizes.heads
        q, k, v = (by_head[name][head] for name in "qkv")
        if sizes.key != width:
            q, k = factors(q.T, k, sizes.key)
            q = q.T
        if sizes.value != width:
            v = factors(outputs[head], v, sizes.value)[1]
        for name, weight in (("q", q), ("k", k), ("v", v)):
            module, size = getattr(new, name), sizes.value if name == "v" else sizes.key
            rows = slice(index * size, index * size + len(weight))
            module.weight[rows] = weight
            if module.bias is not None:
                module.bias[rows] = 0
                if size == width:
                    module.bias[rows] = full[name]["bias"].unflatten(0, (heads, width))[head]


def _set_rates(new: Any, old: Any, text: Text, set_decay: SetDecay) -> None:
    """Set constant rates: a state fades by half over the mean distance of attention, and is written into the
    more strongly, the more attention is concentrated.
    """
    whole = attention_pattern(old, text, LONGEST)
    pattern = _resample(whole, source_heads(len(whole.entropy), new.sizes.heads))
    one = solve_for(text, [torch.ones_like(x[..., :1]) for x, _ in text])  # (1, d): x -> about 1
    beta = 0.3 + 0.4 * (1 - pattern.entropy)
    if new.sizes.negative_eigenvalues:
        beta = beta / 2
    new.beta.weight.copy_(torch.logit(beta)[:, None] * one)
    if new.decay is not None:
        set_decay(new, math.log(2) / pattern.distance.clamp(min=1))


def inverse_softplus(step: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the numbers whose softplus these are."""
    return step.expm1().log()


def _resample(pattern: Pattern, index: list[int]) -> Pattern:
    """Return the pattern of the old heads of these indices."""
    return Pattern(pattern.distance[index], pattern.entropy[index])
