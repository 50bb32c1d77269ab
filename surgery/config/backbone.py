"""The dense Llama-style backbone that every candidate is derived from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from surgery.config.options import Cursor, Option, read_options
from surgery.config.problems import nearest
from surgery.config.selector import select_layers, write_layers

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
FFN_PROJECTIONS = ("gate", "up", "down")

_SCHEMA = {
    "vocab_size": Option(int, low=1, help="tokens in the vocabulary"),
    "dim": Option(int, low=1, help="width of the residual stream"),
    "num_layers": Option(int, low=1, high=4096, help="physical layers"),
    "num_heads": Option(int, low=1, help="query heads"),
    "num_kv_heads": Option(int, None, low=1, help="key/value heads, default num_heads"),
    "head_dim": Option(int, None, low=2, help="width of a head, default dim / num_heads"),
    "ffn_dim": Option(int, low=1, help="hidden width of the SwiGLU"),
    "rope_theta": Option(float, 10000.0, low=1, high=1e12, help="base of the rotary angles"),
    "norm_eps": Option(float, 1e-6, low=0, high=0.1, help="epsilon of RMSNorm"),
    "tie_embeddings": Option(bool, False, help="head shares the embedding's weights"),
    "qk_norm": Option(bool, False, help="RMSNorm on each query and key head"),
    "joint_qk_norm": Option(bool, False, help="qk_norm over all heads of a token together, as in OLMo-2"),
    "post_norm": Option(bool, False, help="norms after mixer and SwiGLU instead of before, as in OLMo-2"),
    "no_rope_layers": Option(str, "", help="layers without rotary embeddings, such as 3::4, as in SmolLM3"),
    "max_position_embeddings": Option(int, 4096, low=1, help="tokens; written to the exported config"),
}

# rope_scaling forms and the fields each needs (names as in transformers' rope_parameters)
_ROPE_FIELDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_ROPE_NUMBERS = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
_ROPE_OPTIONAL = {"yarn": (*_ROPE_NUMBERS, "truncate")}
_ROPE_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}


@dataclass(frozen=True)
class Backbone:
    """Sizes of a Llama-style decoder: pre-norm RMSNorm, rotary attention, SwiGLU."""

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_dim: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    qk_norm: bool = False
    joint_qk_norm: bool = False
    post_norm: bool = False
    no_rope_layers: str = ""
    biases: tuple[str, ...] = ()
    rope_scaling: Mapping[str, Any] | None = field(default=None, hash=False)
    max_position_embeddings: int = 4096

    @classmethod
    def read(cls, data: object, cursor: Cursor) -> Backbone | None:
        """Read a backbone from a mapping; errors are added to the cursor's problems, and give None."""
        before = len(cursor.problems.entries)
        given = cursor.mapping(data, (*_SCHEMA, "biases", "rope_scaling"))
        values = read_options({key: value for key, value in given.items() if key in _SCHEMA}, _SCHEMA, cursor)
        values["biases"] = _read_biases(given.get("biases", ()), cursor.at("biases"))
        values["rope_scaling"] = read_rope_scaling(given.get("rope_scaling"), cursor.at("rope_scaling"))
        if len(cursor.problems.entries) > before:
            return None
        _fill_heads(values, cursor)
        _check_selector(values, cursor)
        return cls(**values) if len(cursor.problems.entries) == before else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML; fields at their defaults are omitted, sizes never."""
        optional = {item.name: item.default for item in fields(self) if item.name not in _SIZES}
        data = asdict(self)
        data["biases"] = list(self.biases)
        data["rope_scaling"] = dict(self.rope_scaling) if self.rope_scaling else None
        return {
            key: value for key, value in data.items()
            if key not in optional or value not in (optional[key], [])
        }  # fmt: skip

    def layers_without_rope(self, depth: int) -> tuple[int, ...]:
        """Return the layers of a stack of `depth` without rotary embeddings, of those that exist there."""
        layers: set[int] = set()
        for part in filter(None, self.no_rope_layers.split(",")):
            with suppress(ValueError):  # a shallower stack than the selector was written for
                layers.update(select_layers(part, depth))
        return tuple(sorted(layers))

    def sizes(self, projection: str) -> tuple[int, int]:
        """Return (inputs, outputs) of a feed-forward projection."""
        return (self.ffn_dim, self.dim) if projection == "down" else (self.dim, self.ffn_dim)


_SIZES = (
    "vocab_size", "dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "ffn_dim",
    "rope_theta", "norm_eps", "tie_embeddings",
)  # fmt: skip


def _fill_heads(values: dict[str, Any], cursor: Cursor) -> None:
    """Fill in defaults that depend on other fields, and check rules between fields."""
    if values["num_kv_heads"] is None:
        values["num_kv_heads"] = values["num_heads"]
    if values["num_heads"] % values["num_kv_heads"]:
        cursor.at("num_kv_heads").problem(
            values["num_kv_heads"], f"must divide num_heads ({values['num_heads']})"
        )
    if values["head_dim"] is None:
        if values["dim"] % values["num_heads"]:
            cursor.at("num_heads").problem(
                values["num_heads"], f"must divide dim ({values['dim']})", "or give head_dim yourself"
            )
        values["head_dim"] = max(1, values["dim"] // values["num_heads"])
    if values["joint_qk_norm"] and not values["qk_norm"]:
        cursor.at("joint_qk_norm").problem(True, "has no effect without qk_norm", "set qk_norm: true")
    if values["head_dim"] % 2:
        cursor.at("head_dim").problem(values["head_dim"], "must be even", "rotary pairs channels")


def _check_selector(values: dict[str, Any], cursor: Cursor) -> None:
    """Check `no_rope_layers`, and write it as all spellings of the same layers are written."""
    text, depth = values["no_rope_layers"], values["num_layers"]
    if not text:
        return
    try:
        values["no_rope_layers"] = write_layers(select_layers(text, depth), depth + 1)
    except ValueError as error:
        cursor.at("no_rope_layers").problem(text, str(error))


def _read_biases(value: object, cursor: Cursor) -> tuple[str, ...]:
    names = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if value == "all":
        names = list(PROJECTIONS)
    for name in names:
        if name not in PROJECTIONS:
            hint = nearest(str(name), PROJECTIONS)
            cursor.problem(name, f"must list projections out of {', '.join(PROJECTIONS)}", hint)
    return tuple(name for name in PROJECTIONS if name in names)


def read_rope_scaling(value: object, cursor: Cursor) -> dict[str, Any] | None:
    """Read and check rotary scaling; None for unscaled rotary embeddings, or with problems."""
    if value is None:
        return None
    given = cursor.mapping(value)
    kind = given.get("rope_type", "default")
    if not isinstance(kind, str) or kind not in _ROPE_FIELDS:
        hint = nearest(str(kind), _ROPE_FIELDS)
        cursor.at("rope_type").problem(kind, f"must be one of {', '.join(_ROPE_FIELDS)}", hint)
        return None
    before = len(cursor.problems.entries)
    optional = {name for name in _ROPE_OPTIONAL.get(kind, ()) if given.get(name) is None}
    given = cursor.mapping(given, ("rope_type", *_ROPE_FIELDS[kind], *_ROPE_OPTIONAL.get(kind, ())))
    result: dict[str, Any] = {"rope_type": kind}
    for name in (*_ROPE_FIELDS[kind], *_ROPE_OPTIONAL.get(kind, ())):
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
    return {name: value for name, value in values.items() if value != _ROPE_DEFAULTS.get(name)}
