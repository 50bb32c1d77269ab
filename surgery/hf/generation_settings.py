"""Type checks of `generation_config.json`: transformers accepts any value, and fails in generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.config.problems import Problems

NUMBERS = frozenset((
    "temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "repetition_penalty", "encoder_repetition_penalty", "length_penalty", "penalty_alpha",
    "diversity_penalty", "guidance_scale", "max_length", "max_new_tokens", "min_length",
    "min_new_tokens", "max_time", "num_beams", "num_beam_groups", "num_return_sequences",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
))  # fmt: skip
FLAGS = frozenset((
    "do_sample", "use_cache", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "return_dict_in_generate", "renormalize_logits", "remove_invalid_values", "token_healing",
))  # fmt: skip


def check_generation(settings: Mapping[str, Any], file: str, problems: Problems) -> None:
    """Add a problem for every number that is not a number, and every flag that is not a boolean."""
    for name, value in settings.items():
        if value is None:
            continue
        if name in NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            problems.add(f"{file}: {name}", value, "must be a number", "leave it out")
        if name in FLAGS and not isinstance(value, bool):
            problems.add(f"{file}: {name}", value, "must be true or false", "leave it out")
