"""Retention in the place of softmax attention: its projections and, for the output, least squares."""

from __future__ import annotations

from typing import Any

import torch

from surgery.mixers.retnet.module import angles_of
from surgery.mixers.transplant import (
    Text,
    attention_heads,
    copy_values,
    fit_output,
    open_gate,
    relative_sizes,
    source_heads,
)


@torch.no_grad()
def transplant(new: Any, old: Any, text: Text) -> None:
    """Start from attention's projections, whose queries and keys are rotated in the same way.

    Keys and values are repeated over the queries' groups. Narrower keys keep the pairs of channels whose
    angles they have. Without a text the mixer is silent.
    """
    sizes = new.sizes
    channels = angles_of(sizes)
    repeated = torch.zeros(sizes.key, dtype=torch.bool)  # wider keys have more channels than attention had
    half = sizes.key // 2
    repeated[1:half] = channels[1:half] == channels[: half - 1]
    repeated[half:] = repeated[:half].clone()
    for name in "qk":
        projection, heads = getattr(new, name), attention_heads(old, name)
        rows = heads[source_heads(len(heads), sizes.heads)][:, channels]
        if name == "k":  # silent, but not q, so that they learn
            rows = rows.masked_fill(repeated[:, None], 0)
        projection.weight.copy_(rows.flatten(0, 1))
        if projection.bias is not None:
            projection.bias.zero_()
    copy_values(new, old, sizes.heads, sizes.value)
    if new.output_gate is not None and text:
        open_gate(new, text, relative_sizes(old, text))
    same = sizes.heads * sizes.value == old.o.weight.shape[1]
    fit_output(new, old, text, prior=old.o.weight if same else None)
