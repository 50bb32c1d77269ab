"""Gated DeltaNet in the place of softmax attention (docs/papers.md, Gated DeltaNet from attention)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from surgery.mixers.delta.transplant import inverse_softplus, start_from_attention
from surgery.mixers.transplant import Text, open_gate


def transplant(new: Any, old: Any, text: Text) -> None:
    """Start from attention's projections, with rates and gates from its pattern on the text."""
    start_from_attention(new, old, text, set_decay=_set_decay, set_gate=open_gate)


def _set_decay(new: Any, step: Float[Tensor, " h"]) -> None:
    new.decay.weight.zero_()
    new.A_log.zero_()
    new.dt_bias.copy_(inverse_softplus(step))
