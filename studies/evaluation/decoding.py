"""Greedy decoding with cache of many prompts of equal length, by any causal LM of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surgery.hf.inputs import CACHE_FIELD


def device_of(model: Any) -> torch.device:
    """Return the device of a model's first parameter."""
    device: torch.device = next(model.parameters()).device
    return device


@torch.no_grad()
def greedy(model: Any, prompts: Sequence[Sequence[int]], new_tokens: int) -> Tensor:
    """Return the most likely `new_tokens` next tokens (prompts, new tokens), one after the other.

    Unlike `generate`, it follows none of the model's own defaults, such as penalties or stop words.

    Args:
        model: in evaluation mode.
        prompts: token ids, of the same length.
        new_tokens: at least 1.
    """
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    ids = torch.tensor(prompts, device=device_of(model))
    output = model(input_ids=ids, use_cache=True, **keep)
    tokens = [output.logits[:, -1].argmax(-1, keepdim=True)]
    while len(tokens) < new_tokens:
        cache = {CACHE_FIELD: getattr(output, CACHE_FIELD)}
        output = model(input_ids=tokens[-1], use_cache=True, **cache)
        tokens.append(output.logits[:, -1].argmax(-1, keepdim=True))
    return torch.cat(tokens, dim=1).cpu()
