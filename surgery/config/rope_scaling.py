"""Scaling of rotary embeddings beyond the trained length: the fields of each form, reading and comparing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from surgery.config.options import Cursor
from surgery.config.problems import nearest

# forms and the fields each needs (names as in transformers' rope_parameters)
ROPE_FIELDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_NUMBERS = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
ROPE_OPTIONAL = {"yarn": (*_NUMBERS, "truncate")}
_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}


def read_rope_scaling(value: object, cursor: Cursor) -> dict[str, Any] | None:
    """Read and check rotary scaling; None for unscaled rotary embeddings, or with problems."""
    if value is None:
        return None
    given = cursor.mapping(value)
    kind = given.get("rope_type", "default")
    if not isinstance(kind, str) or kind not in ROPE_FIELDS:
        hint = nearest(str(kind), ROPE_FIELDS)
        cursor.at("rope_type").problem(kind, f"must be one of {', '.join(ROPE_FIELDS)}", hint)
        return None
    before = len(cursor.problems.entries)
    optional = {name for name in ROPE_OPTIONAL.get(kind, ()) if given.get(name) is None}
    given = cursor.mapping(given, ("rope_type", *ROPE_FIELDS[kind], *ROPE_OPTIONAL.get(kind, ())))
    result: dict[str, Any] = {"rope_type": kind}
    for name in (*ROPE_FIELDS[kind], *ROPE_OPTIONAL.get(kind, ())):
        if name in optional:
            continue
        number = given.get(name)
        if name == "truncate":
            if not isinstance(number, bool):
                cursor.at(name).problem(number, "must be true or false")
        elif isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            cursor.at(name).problem(number, f"must be a positive number for rope_type {kind}")
        elif name == "original_max_position_embeddings" and number != int(number):
            cursor.at(name).problem(number, "must be a whole number of tokens")
        result[name] = number
    if len(cursor.problems.entries) > before:
        return None
    if kind == "llama3" and not result["low_freq_factor"] < result["high_freq_factor"]:
        cursor.at("low_freq_factor").problem(result["low_freq_factor"], "must be below high_freq_factor")
    return None if kind == "default" else result


def canonical_rope_scaling(scaling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the scaling with floats and without defaults, so that equal scalings compare equal."""
    if scaling is None or (scaling["rope_type"] == "linear" and scaling["factor"] == 1):
        return None
    values = {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in scaling.items()
    }
    return {name: value for name, value in values.items() if value != _DEFAULTS.get(name)}
