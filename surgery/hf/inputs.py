"""Validation and interpretation of the inputs of `NasForCausalLM`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import logging

from surgery.context import DecodeCache

# transformers' name of the cache in outputs, and in the arguments that `generate` passes to `forward`
CACHE_FIELD = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
LOSS_ARGUMENTS = ("num_items_in_batch", "ignore_index", "shift_labels")
IDLE = {"output_attentions": False, "output_router_logits": False, "is_causal": True}  # values without effect


def given_cache(past_key_values: Any, cache: Any) -> DecodeCache | None:
    """Return the cache given under either name, or None.

    Raises:
        ValueError: two different caches, or a cache of another class.
    """
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
    """Return the arguments of the loss among `kwargs` of `forward`; others must have no effect.

    Raises:
        ValueError: lists all arguments with unsupported values.
    """
    unsupported = {
        name: value
        for name, value in kwargs.items()
        if value is not None and not (name in IDLE and value is IDLE[name])
    }
    arguments = {name: unsupported.pop(name) for name in LOSS_ARGUMENTS if name in unsupported}
    problems = []
    if unsupported.pop("output_attentions", None) is not None:
        problems.append("output_attentions: this model does not record them")
    if unsupported:
        problems.append(f"this model does not know the arguments {', '.join(sorted(unsupported))}")
    if problems:
        raise ValueError("; ".join(problems))
    return arguments


def check_inputs(
    attention_mask: Tensor | None, position_ids: Tensor | None, cache: DecodeCache | None
) -> None:
    """Refuse additive masks, and positions that mean several texts packed into a row.

    Raises:
        ValueError: this model would interpret the inputs differently from transformers.
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
    """Return False as the new `use_cache`, as in transformers: recomputed activations can't be cached.

    Raises:
        ValueError: a cache was given.
    """
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
    """Return the weight of the auxiliary losses, which are means over the tokens of this pass.

    1, or, if the loss is averaged over `num_items_in_batch` tokens of several passes, this pass's share of
    them.
    """
    if num_items_in_batch is None:
        return 1.0
    targets = labels[..., 1:] if shift_labels is None else shift_labels
    counted = (targets != ignore_index).sum()
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(counted.device)
    return counted / num_items_in_batch


def kept_positions(hidden: Tensor, keep: int | Tensor) -> Tensor:
    """Select positions of (b, t, d) by `logits_to_keep`: 0 all, n the last n, or a tensor.

    A tensor holds 1-D indices for all rows, or 2-D indices or a boolean mask for each row.
    """
    if isinstance(keep, int):
        return hidden[:, -keep:] if keep else hidden
    if keep.ndim == 2:
        return hidden[keep] if keep.dtype == torch.bool else hidden.take_along_dim(keep[..., None], 1)
    return hidden[:, keep]
