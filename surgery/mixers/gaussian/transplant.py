"""Gaussian-kernel attention in the place of softmax attention: its bandwidth and output by least squares."""

from __future__ import annotations

import math
from typing import Any

import torch

from surgery.mixers.transplant import Text, fit_output, outputs_of, repeat_heads

BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)  # tried, in units of sqrt(head_dim)


@torch.no_grad()
def transplant(new: Any, old: Any, text: Text) -> None:
    """Copy q and k if the mixer has them, and fit `o` for the bandwidth with the smallest error.

    Without a text the bandwidth stays and the mixer is silent.
    """
    if new.q is not None and new.q.weight.shape == old.q.weight.shape:
        groups = old.q.weight.shape[0] // old.k.weight.shape[0]
        new.q.load_state_dict(old.q.state_dict())
        new.k.load_state_dict(repeat_heads(old.k, old.head_dim, groups))
    outputs = outputs_of(old, text)
    errors = {}
    for width in BANDWIDTHS if text else ():
        new.log_sigma.fill_(math.log(width * new.head_dim**0.5))
        errors[width] = fit_output(new, old, text, outputs=outputs)
    if errors:
        new.log_sigma.fill_(math.log(min(errors, key=errors.__getitem__) * new.head_dim**0.5))
    fit_output(new, old, text, outputs=outputs)
