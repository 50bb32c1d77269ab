"""Gated DeltaNet in the place of softmax attention (docs/papers.md, Gated DeltaNet from attention)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from surgery.mixers.delta.transplant import inverse_softplus, source_heads, start_from_attention
from surgery.mixers.transplant import Text, solve_for

OPEN = 1.278  # silu(1.278) = 1


def transplant(new: Any, old: Any, text: Text) -> None:
    """Start from attention's projections, with rates and gates from its pattern on the text."""
    start_from_attention(new, old, text, set_decay=_set_decay, set_gate=_set_gate)


def _set_decay(new: Any, step: Float[Tensor, " h"]) -> None:
    new.decay.weight.zero_()
    new.A_log.zero_()
    new.dt_bias.copy_(inverse_softplus(step))


def _set_gate(new: Any, text: Text, sizes: list[Float[Tensor, "1 _ h"]]) -> None:
    weight = solve_for(text, [size - 1 + OPEN for size in sizes])  # silu(z) is about z - 0.28 there
    heads = source_heads(new, len(weight))
    new.output_gate.weight.copy_(weight[heads].repeat_interleave(new.sizes.value, 0))
