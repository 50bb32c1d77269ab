"""The inputs of `NasForCausalLM`: what they mean, and which ones are refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import logging

from surgery.context import DecodeCache

# transformers' name for the cache in outputs, and in what `generate` gives to `forward`
CACHE_FIELD = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
LOSS_ARGUMENTS = ("num_items_in_batch", "ignore_index", "shift_labels")
IDLE = {"output_attentions": False, "output_router_logits": False, "is_causal": True}  # ask for nothing


def given_cache(past_key_values: Any, cache: Any) -> DecodeCache | None:
    """The one cache that was given, under either name."""
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise ValueError("give either cache or past_key_values: they are two names for the same argument")
    name, given = ("cache", cache) if cache is not None else ("past_key_values", past_key_values)
    if given is not None and not isinstance(given, DecodeCache):
        raise ValueError(
            f"{name}: a {type(given).__name__} does not fit this model, which needs its own DecodeCache; "
            "leave it out and take it from the output"
        )
    return given


def loss_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the loss among the further arguments of `forward`; any other must ask for nothing.

    Raises:
        ValueError: arguments with a value that `forward` does not follow, all of them named.
    """
    asked = {
        name: value
        for name, value in kwargs.items()
        if value is not None and not (name in IDLE and value is IDLE[name])
    }
    found = {name: asked.pop(name) for name in LOSS_ARGUMENTS if name in asked}
    problems = []
    if asked.pop("output_attentions", None) is not None:
        problems.append("output_attentions: this model does not record them")
    if asked:
        problems.append(f"this model does not know the arguments {', '.join(sorted(asked))}")
    if problems:
        raise ValueError("; ".join(problems))
    return found


def check_inputs(
    attention_mask: Tensor | None, position_ids: Tensor | None, cache: DecodeCache | None
) -> None:
    """Refuse masks that are added to scores, and positions that mean several texts in a row.

    Raises:
        ValueError: inputs that this model would take for something else than transformers does.
    """
    if attention_mask is not None:
        if attention_mask.ndim != 2:
            rule = (
                "must be (sequences, tokens), 1 at real tokens: the model has mixers without attention maps"
            )
            raise ValueError(f"attention_mask: a mask of {attention_mask.ndim} dimensions; it {rule}")
        if attention_mask.is_floating_point() and bool(((attention_mask != 0) & (attention_mask != 1)).any()):
            raise ValueError("attention_mask: must hold 1 at real tokens and 0 at padding, nothing else")
    if position_ids is not None:
        if position_ids.ndim != 2:
            raise ValueError(f"position_ids: must have 2 dimensions, not {position_ids.ndim}")
        if attention_mask is None and cache is None and bool((position_ids.diff(dim=-1) != 1).any()):
            raise ValueError(
                "position_ids: they start again or jump within a row, which means several texts packed into "
                "it; this model would let them see each other. Give each text a row of its own"
            )


def refuse_cache(cache: DecodeCache | None, use_cache: bool | None) -> bool:
    """False, as in transformers: what is computed again in the backward pass can't be cached."""
    if cache is not None:
        raise ValueError("past_key_values: can't be extended while gradient checkpointing is on")
    if use_cache:
        message = "`use_cache=True` is incompatible with gradient checkpointing. Setting `use_cache=False`."
        logging.get_logger(__name__).warning_once(message)
    return False


def share_of_batch(
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
) -> Tensor | float:
    """The part of the auxiliary terms, means over tokens, that this pass adds to the loss: all, or where
    the loss is a sum over `num_items_in_batch` tokens of several passes, its own part of these."""
    if num_items_in_batch is None:
        return 1.0
    targets = labels[..., 1:] if shift_labels is None else shift_labels
    counted = (targets != ignore_index).sum()
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(counted.device)
    return counted / num_items_in_batch


def kept_positions(hidden: Tensor, wanted: int | Tensor) -> Tensor:
    """Positions of (b, t, d) that `logits_to_keep` asks for: 0 all, n the last n, or 1-D indices."""
    if isinstance(wanted, int):
        return hidden[:, -wanted:] if wanted else hidden
    if wanted.ndim == 2:
        return hidden[wanted] if wanted.dtype == torch.bool else hidden.take_along_dim(wanted[..., None], 1)
    return hidden[:, wanted]
