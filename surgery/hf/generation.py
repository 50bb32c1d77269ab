"""Options of transformers' `generate` that an exported model does not support, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from surgery.config.problems import Problems

_CACHE = "the model keeps its own cache, whose layers transformers' caches do not know"
_NO_WAY_BACK = "a recurrent state can't be taken back to an earlier token"
_HUB_CODE = "is run by code from the Hub that is written for transformers' own caches"

OF_GENERATE = ("tokenizer", "assistant_tokenizer")  # arguments of `generate` that it passes on to `forward`

# option -> (returns whether a value has no effect, reason why other values are not supported)
_UNFOLLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "cache_implementation": (lambda value: value == "dynamic", _CACHE),
    "cache_config": (lambda value: not value, _CACHE),
    "continuous_batching_config": (lambda value: False, _CACHE),
    "output_attentions": (lambda value: not value, "attention maps are not recorded"),
    "assistant_model": (lambda value: False, _NO_WAY_BACK),
    "prompt_lookup_num_tokens": (lambda value: not value, _NO_WAY_BACK),
    "assistant_early_exit": (lambda value: not value, _NO_WAY_BACK),
    "is_assistant": (lambda value: not value, _NO_WAY_BACK),
    "use_mtp": (lambda value: not value, "the model has no multi-token prediction"),
    "speculation_type": (lambda value: False, _NO_WAY_BACK),
    "penalty_alpha": (lambda value: not value, _HUB_CODE),
    "dola_layers": (lambda value: False, _HUB_CODE),
    "low_memory": (lambda value: not value, _HUB_CODE),
    "num_beam_groups": (lambda value: value == 1, _HUB_CODE),
    "diversity_penalty": (lambda value: not value, _HUB_CODE),
    "constraints": (lambda value: not value, _HUB_CODE),
    "force_words_ids": (lambda value: not value, _HUB_CODE),
}


def unfollowed(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of `generate` with unsupported values, and the reason for each."""
    return {
        name: reason
        for name, (idle, reason) in _UNFOLLOWED.items()
        if settings.get(name) is not None and not idle(settings[name])
    }


def check_generation(arguments: Mapping[str, Any], *defaults: Any) -> None:
    """Check a call of `generate` for unsupported options.

    Args:
        arguments: the keyword arguments of the call.
        defaults: generation configs (or None) for missing arguments; the first has precedence.

    Raises:
        UserError: lists all unsupported options.
    """
    settings = {name: setting(name, arguments, *defaults) for name in _UNFOLLOWED}
    problems = Problems()
    for name, reason in unfollowed(settings).items():
        problems.add(name, _shown(settings[name]), reason)
    problems.raise_if_any("the model can't generate as asked")


def setting(name: str, arguments: Mapping[str, Any], *defaults: Any) -> Any:
    """Return an option's value in a call: the argument, or that of the first generation config with one."""
    values = [arguments.get(name), *(getattr(config, name, None) for config in defaults)]
    return next((value for value in values if value is not None), None)


def _shown(value: Any) -> Any:
    """Return a value for a message; for a model or another large object, the name of its class."""
    return value if isinstance(value, str | int | float | dict | list) else type(value).__name__
