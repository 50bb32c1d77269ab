"""Custom code in a model folder: detected without running it, and run only at the user's request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgery.config.problems import Problems
from surgery.hf.configuration import MODEL_TYPE

TRUST = "read that code, and add --trust-remote-code if you trust it"


def check_model_code(config: Mapping[str, Any], trusted: bool, problems: Problems) -> list[str]:
    """Add problems for a model that needs its own code, or a kernel from the Hub, unless `trusted`.

    Models of this package are always loaded by the installed package, not by the code next to their weights.

    Returns:
        Notes on code that is not run.
    """
    if not trusted:
        for field, kernel in _hub_kernels(config):
            problems.add(f"config.json: {field}", kernel, "is a kernel from the Hub, which is code", TRUST)
    code = config.get("auto_map")
    kind = config.get("model_type")
    if not code or kind == MODEL_TYPE:
        return []
    if not isinstance(code, dict) or not all(isinstance(key, str) for key in code):
        problems.add("config.json: auto_map", code, "must be an object of class names")
        return []
    if trusted:
        return []
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind in CONFIG_MAPPING_NAMES and kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return [
            f"auto_map: the model's own code is not run; it is loaded as transformers' {kind} "
            "(--trust-remote-code runs it)"
        ]
    problems.add("config.json: auto_map", ", ".join(code), "the model needs code of its own", TRUST)
    return []


def _hub_kernels(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields that name an attention kernel from the Hub, also in nested configs."""
    for field, value in config.items():
        if isinstance(value, dict):
            yield from _hub_kernels(value)
        elif field in ("attn_implementation", "_attn_implementation") and "/" in str(value):
            yield field, str(value)
