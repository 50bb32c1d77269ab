"""Defaults of `generate` from a checkpoint, without those that the new model does not support."""

from __future__ import annotations

import json
from typing import Any

from surgery.apply.source import GENERATION, SourceModel
from surgery.hf.generation import unfollowed

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def generation_defaults(source: SourceModel) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the defaults to write, special tokens included, and a note on each omitted one.

    Special tokens missing from generation_config.json are taken from config.json, as in transformers.
    """
    settings = {name: source.config[name] for name in _TOKENS if source.config.get(name) is not None}
    settings |= {name: value for name, value in source.generation.items() if not name.startswith("_")}
    dropped = unfollowed(settings)
    notes = tuple(
        f"{GENERATION}: {name} = {json.dumps(settings.pop(name))} is left out: {reason}"
        for name, reason in dropped.items()
    )
    return settings, notes
