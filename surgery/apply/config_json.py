"""Reading config.json of a supported family: its backbone and its layout, before any weight is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.apply.families import FAMILIES, LETTERS, Family
from surgery.architecture import Architecture
from surgery.config.backbone import TRANSFORMERS_NAMES, Backbone
from surgery.config.json_source import kind_of
from surgery.config.options import Cursor, Option
from surgery.config.problems import Problems
from surgery.config.rope_scaling import ROPE_FIELDS, ROPE_OPTIONAL

# Types and bounds of the fields of config.json; those in _NULLABLE may be null. All are checked before
# transformers allocates anything of their size.
_SIZE = Option(int, low=1, high=2**31)
_FIELDS = {
    **dict.fromkeys(
        ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
         "max_position_embeddings", "sliding_window", "linear_num_key_heads", "linear_num_value_heads",
         "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "decoder_sparse_step",
         "full_attention_interval"), _SIZE,
    ),
    "num_experts": Option(int, low=0, high=2**31),
    "num_hidden_layers": Option(int, low=1, high=4096),
    "max_window_layers": Option(int, low=0, high=4096),
    "no_rope_layer_interval": Option(int, low=1, high=2**31),
    "head_dim": Option(int, low=2, high=2**31),
    "rms_norm_eps": Option(float, low=0),
    "rope_theta": Option(float, low=1),
    "partial_rotary_factor": Option(float, low=0, high=1),
    **dict.fromkeys(
        ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window",
         "linear_allow_neg_eigval"), Option(bool)
    ),
    "hidden_act": Option(str),
}  # fmt: skip
_MULTIPLIER = Option(float, low=1e-6, high=1e6)
_OBJECTS = ("rope_parameters", "rope_scaling", "quantization_config", "auto_map")
_ROPE = {
    "rope_theta": _FIELDS["rope_theta"], "partial_rotary_factor": _FIELDS["partial_rotary_factor"],
    "rope_type": Option(str), "type": Option(str),
}  # fmt: skip
_NULLABLE = (
    "num_key_value_heads", "head_dim", "sliding_window", "max_window_layers", "rope_theta",
    "partial_rotary_factor", "layer_types", "no_rope_layers", "linear_num_key_heads",
    "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim", "num_experts",
    "decoder_sparse_step", "full_attention_interval", *_OBJECTS,
)  # fmt: skip
_SECTIONS = ("mrope_section", "mrope_interleaved")  # positions in images; in a text all are alike
_SILU = ("silu", "swish")

_NAMED_FIELD = re.compile(r"Field '(\w+)'")


@dataclass(frozen=True)
class FamilyConfig:
    """A config.json that can be carried: the architecture it describes, and transformers' own object."""

    architecture: Architecture
    config: Any
    notes: tuple[str, ...]  # on fields without effect

    @property
    def kind(self) -> str:
        """The `model_type`."""
        return str(self.config.model_type)


def read_family_config(data: Mapping[str, Any], problems: Problems) -> FamilyConfig | None:
    """Read a config.json; unsupported features are added to `problems`, and a config without a
    usable backbone gives None.

    A sliding window makes a layer `W`, unless it is at least as long as the longest context that the config
    allows: then it never limits attention. Missing fields have the family's defaults of transformers.
    """
    cursor = Cursor(problems)
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        hint = f"families that can: {', '.join(FAMILIES)}"
        cursor.at("model_type").problem(kind, "this family can't be carried exactly", hint)
        return None
    family, before = FAMILIES[kind], len(problems.entries)
    _check_fields(data, cursor, family)
    if isinstance(quantised := data.get("quantization_config"), dict) and quantised:
        cursor.at("quantization_config").problem(
            quantised.get("quant_method", "some method"), "quantised checkpoints can't be rewritten",
            "start from the full-precision one",
        )  # fmt: skip
        before += 1  # continue, since the rest of the config can be read
    if data.get("per_layer_config"):
        rule = "layers of different sizes can't be carried"
        cursor.at("per_layer_config").problem(
            data["per_layer_config"], rule, "transformers does not build them"
        )
    if len(problems.entries) > before:
        return None
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[kind](**data)
        config.standardize_rope_params()
    except Exception as error:  # transformers' validation raises several kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        field = _NAMED_FIELD.search(str(error))
        at = cursor.at(field[1]) if field else cursor.at("config.json")
        at.problem(data.get(field[1]) if field else None, f"transformers does not accept it: {reason}")
        return None
    if config.hidden_act not in _SILU:
        cursor.at("hidden_act").problem(config.hidden_act, "must be silu", "the feed-forward part is SwiGLU")
    refusals = list(family.refusals(config))
    for refusal in refusals:
        cursor.at(refusal.field).problem(refusal.value, refusal.rule, refusal.hint)
    letters = _read_layout(config, family, cursor)
    rope, theta, notes = _read_rope(config, cursor)
    notes += [*_note_custom_code(data), *_note_factors(config, family), *_note_repeats(config, family)]
    sizes = {ours: getattr(config, theirs, None) for theirs, ours in TRANSFORMERS_NAMES.items()}
    backbone = Backbone.read(
        {
            **sizes,
            "num_kv_heads": config.num_key_value_heads or config.num_attention_heads,
            "head_dim": sizes["head_dim"] or config.hidden_size // config.num_attention_heads,
            "rope_theta": theta,
            "tie_embeddings": bool(config.tie_word_embeddings),
            "qk_norm": family.qk_norm,
            "biases": list(family.biases(config)),
            "rope_scaling": rope,
            **family.backbone(config),
        },
        cursor,
    )
    if backbone is None or refusals:
        return None
    mixers = {"W": {"window": config.sliding_window}} if "W" in letters else {}
    mixers |= {letter: options for letter, options in family.mixers(config).items() if letter in letters}
    return FamilyConfig(Architecture(backbone, layout=letters, mixers=mixers), config, tuple(notes))


def _check_fields(data: Mapping[str, Any], cursor: Cursor, family: Family) -> None:
    """Add a problem for each field of the wrong type or out of range."""
    for name, value in data.items():
        if value is None and name in _NULLABLE:
            continue
        if name in _FIELDS:
            _check_value(value, _FIELDS[name], cursor.at(name))
        elif name in family.fields:
            _check_value(value, _MULTIPLIER, cursor.at(name))
        elif name in _OBJECTS and not isinstance(value, dict):
            cursor.at(name).problem(value, f"must be an object, not {kind_of(value)}")
        elif name == "layer_types" and not (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        ):
            cursor.at(name).problem(value, "must be a list of names, one per layer")
        elif name == "no_rope_layers" and not (
            isinstance(value, list) and set(map(str, value)) <= {"0", "1"}
        ):
            cursor.at(name).problem(value, "must be a list of 0 and 1, one per layer")
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


def _note_factors(config: Any, family: Family) -> list[str]:
    folded = [module for module, factor in family.factors(config).items() if factor != 1]
    if not folded:
        return []
    return [f"multipliers of the config are folded into the weights of {', '.join(folded)}"]


def _note_repeats(config: Any, family: Family) -> list[str]:
    if not family.hybrid or config.linear_num_key_heads == config.linear_num_value_heads:
        return []
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    return [f"queries and keys of G layers are repeated: {keys} heads become {values}, as many as for values"]


def _read_layout(config: Any, family: Family, cursor: Cursor) -> str:
    """Return the letter of every layer."""
    depth: int = config.num_hidden_layers
    kinds: list[str] = getattr(config, "layer_types", None) or []
    known = ("full_attention", "linear_attention" if family.hybrid else "sliding_attention")
    unknown = set(kinds) - set(known)
    if unknown:
        at = cursor.at("layer_types")
        at.problem(", ".join(sorted(unknown)), f"only {' and '.join(known)} can be carried")
        return "F" * depth
    if family.hybrid:
        return "".join(LETTERS[kind] for kind in kinds)
    window = config.sliding_window if family.windows != "none" else None
    if window is None or window >= config.max_position_embeddings:
        return "F" * depth
    if family.windows == "all":
        return "W" * depth
    return "".join("W" if kind == "sliding_attention" else "F" for kind in kinds)


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
    if kind not in ROPE_FIELDS:
        at.at("rope_type").problem(kind, "can't be carried", f"types: {', '.join(ROPE_FIELDS)}")
        return None, theta, []
    if kind == "yarn" and "factor" not in given and given.get("original_max_position_embeddings"):
        given["factor"] = config.max_position_embeddings / given["original_max_position_embeddings"]
    given = {key: value for key, value in given.items() if key not in _SECTIONS}
    known = (*ROPE_FIELDS[kind], *ROPE_OPTIONAL.get(kind, ()))
    # transformers ignores them too, so that the angles are the same
    notes = [
        f"rope_parameters.{key}: has no effect with rope_type {kind}" for key in given if key not in known
    ]
    rope = {"rope_type": kind} | {key: given[key] for key in known if key in given}
    return (None if kind == "default" else rope), theta, notes
