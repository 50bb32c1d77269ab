"""Supported checkpoint families: reading config.json as a backbone, and the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from surgery.config.backbone import _ROPE_FIELDS, _ROPE_OPTIONAL, Backbone
from surgery.config.json_source import kind_of
from surgery.config.options import Cursor, Option
from surgery.config.problems import Problems

_ATTENTION = ("q", "k", "v")


def _llama_biases(config: Any) -> tuple[str, ...]:
    return (("q", "k", "v", "o") if config.attention_bias else ()) + (
        ("gate", "up", "down") if config.mlp_bias else ()
    )


# model_type -> which projections carry a bias. All four are pre-norm, RMSNorm, rotary, SwiGLU decoders;
# Qwen3 adds a norm on every query and key head.
FAMILIES: dict[str, Callable[[Any], tuple[str, ...]]] = {
    "llama": _llama_biases,
    "mistral": lambda config: (),
    "qwen2": lambda config: _ATTENTION,
    "qwen3": lambda config: (*_ATTENTION, "o") if config.attention_bias else (),
}
# Types and bounds of the fields of config.json; those in _NULLABLE may be null. All are checked before
# transformers allocates anything of their size.
_SIZE = Option(int, low=1, high=2**31)
_FIELDS = {
    **dict.fromkeys(
        ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
         "max_position_embeddings", "sliding_window"), _SIZE,
    ),
    "num_hidden_layers": Option(int, low=1, high=4096),
    "max_window_layers": Option(int, low=0, high=4096),
    "head_dim": Option(int, low=2, high=2**31),
    "rms_norm_eps": Option(float, low=0),
    "rope_theta": Option(float, low=1),
    "partial_rotary_factor": Option(float, low=0, high=1),
    **dict.fromkeys(
        ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"), Option(bool)
    ),
    "hidden_act": Option(str),
}  # fmt: skip
_OBJECTS = ("rope_parameters", "rope_scaling", "quantization_config", "auto_map")
_ROPE = {
    "rope_theta": _FIELDS["rope_theta"], "partial_rotary_factor": _FIELDS["partial_rotary_factor"],
    "rope_type": Option(str), "type": Option(str),
}  # fmt: skip
_NULLABLE = (
    "num_key_value_heads", "head_dim", "sliding_window", "max_window_layers", "rope_theta",
    "partial_rotary_factor", "layer_types", *_OBJECTS,
)  # fmt: skip
_QK_NORM = ("qwen3",)
_SILU = ("silu", "swish")

_NAMED_FIELD = re.compile(r"Field '(\w+)'")

_MIXER = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}
_FFN = {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
_TOP = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
# computed buffers that old checkpoints contain
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "rotary_emb.original_inv_freq")


def source_name(name: str) -> str | None:
    """Return transformers' name of a tensor, or None if it has none.

    `layers.3.mixer.q.weight` is `model.layers.3.self_attn.q_proj.weight`.
    """
    module, _, kind = name.rpartition(".")
    if module in _TOP:
        return f"{_TOP[module]}.{kind}"
    parts = module.split(".")
    if parts[0] != "layers" or len(parts) < 3:
        return None
    prefix = f"model.layers.{parts[1]}"
    match parts[2:]:
        case ["mixer_norm"]:
            return f"{prefix}.input_layernorm.{kind}"
        case ["ffn_norm"]:
            return f"{prefix}.post_attention_layernorm.{kind}"
        case ["mixer", item] if item in _MIXER:
            return f"{prefix}.{_MIXER[item]}.{kind}"
        case ["ffn", item] if item in _FFN:
            return f"{prefix}.{_FFN[item]}.{kind}"
    return None


def read_backbone(data: Mapping[str, Any], problems: Problems) -> tuple[Backbone | None, list[str]]:
    """Read a config.json; unsupported features are added to `problems`.

    Sliding windows are supported only if they have no effect: at least as long as the longest context that
    the config allows. Missing fields have the family's defaults of transformers.

    Returns:
        The backbone, or None with problems, and notes on fields without effect.
    """
    cursor = Cursor(problems)
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        hint = f"families that can: {', '.join(FAMILIES)}"
        cursor.at("model_type").problem(kind, "this family can't be carried exactly", hint)
        return None, []
    before = len(problems.entries)
    _check_fields(data, cursor)
    if isinstance(quantised := data.get("quantization_config"), dict) and quantised:
        cursor.at("quantization_config").problem(
            quantised.get("quant_method", "some method"), "quantised checkpoints can't be rewritten",
            "start from the full-precision one",
        )  # fmt: skip
        before += 1  # continue, since the rest of the config can be read
    if len(problems.entries) > before:
        return None, []
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[kind](**data)
        config.standardize_rope_params()
    except Exception as error:  # transformers' validation raises several kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        field = _NAMED_FIELD.search(str(error))
        at = cursor.at(field[1]) if field else cursor.at("config.json")
        at.problem(data.get(field[1]) if field else None, f"transformers does not accept it: {reason}")
        return None, []
    if config.hidden_act not in _SILU:
        cursor.at("hidden_act").problem(config.hidden_act, "must be silu", "the feed-forward part is SwiGLU")
    _check_window(config, cursor)
    rope, theta, notes = _read_rope(config, cursor)
    notes += _note_custom_code(data)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    backbone = Backbone.read(
        {
            "vocab_size": config.vocab_size,
            "dim": config.hidden_size,
            "num_layers": config.num_hidden_layers,
            "num_heads": config.num_attention_heads,
            "num_kv_heads": config.num_key_value_heads or config.num_attention_heads,
            "head_dim": head_dim,
            "ffn_dim": config.intermediate_size,
            "rope_theta": theta,
            "norm_eps": config.rms_norm_eps,
            "tie_embeddings": bool(config.tie_word_embeddings),
            "qk_norm": kind in _QK_NORM,
            "biases": list(FAMILIES[kind](config)),
            "rope_scaling": rope,
            "max_position_embeddings": config.max_position_embeddings,
        },
        cursor,
    )
    return backbone, notes


def _check_fields(data: Mapping[str, Any], cursor: Cursor) -> None:
    """Add a problem for each field of the wrong type or out of range."""
    for name, value in data.items():
        if value is None and name in _NULLABLE:
            continue
        if name in _FIELDS:
            _check_value(value, _FIELDS[name], cursor.at(name))
        elif name in _OBJECTS and not isinstance(value, dict):
            cursor.at(name).problem(value, f"must be an object, not {kind_of(value)}")
        elif name == "layer_types" and not (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        ):
            cursor.at(name).problem(value, "must be a list of names, one per layer")
    for name in ("rope_parameters", "rope_scaling"):
        rope = data.get(name)
        if isinstance(rope, dict):
            for key in _ROPE.keys() & rope.keys():
                if rope[key] is not None:
                    _check_value(rope[key], _ROPE[key], cursor.at(name, key))


def _check_value(value: object, option: Option, cursor: Cursor) -> None:
    try:
        option.read(value)
    except ValueError as error:
        cursor.problem("null" if value is None else value, str(error))


def _note_custom_code(data: Mapping[str, Any]) -> list[str]:
    if not data.get("auto_map"):
        return []
    return [f"auto_map: its custom code is ignored; the model is read as {data['model_type']}"]


def _check_window(config: Any, cursor: Cursor) -> None:
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    if layers is not None:
        kinds = set(layers) - {"full_attention"}
        if kinds - {"sliding_attention"}:
            cursor.at("layer_types").problem(", ".join(sorted(kinds)), "only full attention can be carried")
            return
        if not kinds:
            return
    if window is not None and window < config.max_position_embeddings:
        cursor.at("sliding_window").problem(
            window,
            f"is shorter than max_position_embeddings ({config.max_position_embeddings}): it would be lost",
            "only a window that never limits attention can be carried over to full attention",
        )


def _read_rope(config: Any, cursor: Cursor) -> tuple[dict[str, Any] | None, float, list[str]]:
    """Return rotary scaling, theta, and notes on fields without effect, from v4 and v5 spellings."""
    given = {key: value for key, value in dict(config.rope_parameters).items() if value is not None}
    theta = float(given.pop("rope_theta", 10000.0))
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    at = cursor.at("rope_parameters")
    partial = given.pop("partial_rotary_factor", 1.0)
    if partial != 1.0:
        at.at("partial_rotary_factor").problem(partial, "partial rotary embedding can't be carried")
    if kind not in _ROPE_FIELDS:
        at.at("rope_type").problem(kind, "can't be carried", f"types: {', '.join(_ROPE_FIELDS)}")
        return None, theta, []
    if kind == "yarn" and "factor" not in given and given.get("original_max_position_embeddings"):
        given["factor"] = config.max_position_embeddings / given["original_max_position_embeddings"]
    known = (*_ROPE_FIELDS[kind], *_ROPE_OPTIONAL.get(kind, ()))
    # transformers ignores them too, so that the angles are the same
    notes = [
        f"rope_parameters.{key}: has no effect with rope_type {kind}" for key in given if key not in known
    ]
    rope = {"rope_type": kind} | {key: given[key] for key in known if key in given}
    return (None if kind == "default" else rope), theta, notes
