"""Kimi Delta Attention in the place of softmax attention (docs/papers.md, Gated DeltaNet from attention)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.mixers.delta.transplant import inverse_softplus, start_from_attention
from surgery.mixers.transplant import Text, solve_for, source_heads


def transplant(new: Any, old: Any, text: Text) -> None:
    """Start from attention's projections, with rates and gates from its pattern on the text."""
    start_from_attention(new, old, text, set_decay=_set_decay, set_gate=_set_gate)


def _set_decay(new: Any, step: Float[Tensor, " h"]) -> None:
    new.decay.start_at_zero()  # one of its two matrices only, so that it can learn
    new.A_log.zero_()
    new.dt_bias.copy_(inverse_softplus(step).repeat_interleave(new.sizes.key))


def _set_gate(new: Any, text: Text, sizes: list[Float[Tensor, "1 _ h"]]) -> None:
    """Set the gate to the best of its rank, which in narrow models is smaller than the number of heads."""
    # sigmoid(z) is about 1/2 + z/4, here half of the relative size
    weight = solve_for(text, [2 * (size - 1) for size in sizes])
    a, s, b = torch.linalg.svd(weight, full_matrices=False)
    rank = min(len(s), new.sizes.rank)
    root = s[:rank].sqrt()
    gate = new.output_gate
    gate.start_at_zero()
    gate.encoder.weight[:rank] = root[:, None] * b[:rank]
    by_head = (a[:, :rank] * root)[source_heads(len(weight), new.sizes.heads)]
    gate.decoder.weight[:, :rank] = by_head.repeat_interleave(new.sizes.value, 0)
