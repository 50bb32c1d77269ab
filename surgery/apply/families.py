"""Checkpoint families that are carried exactly: config.json as a backbone, tensors under our names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from surgery.backbone import _ROPE_FIELDS, _ROPE_OPTIONAL, Backbone
from surgery.options import Cursor
from surgery.problems import Problems

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
_QK_NORM = ("qwen3",)
_SILU = ("silu", "swish")

_MIXER = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}
_FFN = {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
_TOP = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
# buffers that old checkpoints carry and that are computed
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "rotary_emb.original_inv_freq")


def source_name(name: str) -> str | None:
    """`layers.3.mixer.q.weight` -> `model.layers.3.self_attn.q_proj.weight`; None: no such."""
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
    """The backbone of a config.json and notes on fields without effect; what can't be carried, by name.

    Sliding windows are carried only where they never bite: at least as long as the longest context that
    the config allows. Fields that a config leaves out take the family's defaults in transformers.
    """
    cursor = Cursor(problems)
    kind = data.get("model_type")
    if kind not in FAMILIES:
        known = f"families that can: {', '.join(FAMILIES)}"
        cursor.at("model_type").problem(kind, "this family can't be carried exactly", known)
        return None, []
    if data.get("quantization_config"):
        method = dict(data["quantization_config"]).get("quant_method", "some method")
        cursor.at("quantization_config").problem(
            method, "quantised checkpoints can't be rewritten", "start from the full-precision one"
        )
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[kind](**data)
    except Exception as error:  # transformers' validation raises several kinds
        reason = str(error).strip().splitlines()[-1]
        cursor.problem(None, f"transformers does not accept it: {reason}")
        return None, []
    if config.hidden_act not in _SILU:
        cursor.at("hidden_act").problem(config.hidden_act, "must be silu", "the feed-forward part is SwiGLU")
    _check_window(config, cursor)
    rope, theta, notes = _read_rope(config, cursor)
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
            "full attention can only carry a window that never bites",
        )


def _read_rope(config: Any, cursor: Cursor) -> tuple[dict[str, Any] | None, float, list[str]]:
    """Rotary scaling, theta, and notes on fields that have no effect; from v4 and v5 spellings alike."""
    config.standardize_rope_params()
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
