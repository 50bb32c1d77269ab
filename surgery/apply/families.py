"""Supported checkpoint families: what sets each one's config and tensors apart from Llama's.

Inside `surgery.apply` every tensor has the name that it has in transformers' Llama ("canonical" here),
whatever its family calls it, and the meaning that it has there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from surgery.apply import hybrids
from surgery.apply.slots import Refusal, Slot, Slots, head_width, stacked
from surgery.apply.weights import TensorInfo
from surgery.mixers import MIXERS

_ATTENTION = ("q", "k", "v")


def _llama_biases(config: Any) -> tuple[str, ...]:
    return (("q", "k", "v", "o") if config.attention_bias else ()) + (
        ("gate", "up", "down") if config.mlp_bias else ()
    )


def _granite_factors(config: Any) -> dict[str, float]:
    """Return Granite's multipliers as factors of weights.

    A tied head stays tied: it gains the embedding's multiplier, which the last norm's weights take back.
    """
    head = config.embedding_multiplier if config.tie_word_embeddings else 1.0
    return {
        "model.embed_tokens": config.embedding_multiplier,
        "model.norm": 1 / (config.logits_scaling * head),
        "self_attn.q_proj": config.attention_multiplier * head_width(config) ** 0.5,
        "self_attn.o_proj": config.residual_multiplier,
        "mlp.down_proj": config.residual_multiplier,
    }


def _no_rope_layers(config: Any) -> dict[str, str]:
    without = [str(index) for index, rotated in enumerate(config.no_rope_layers) if not rotated]
    return {"no_rope_layers": ",".join(without)}


def _phi3_slots(config: Any, layer_type: str) -> Slots:
    width = head_width(config)
    keys, ffn = config.num_key_value_heads * width, config.intermediate_size
    heights = {"q": config.num_attention_heads * width, "k": keys, "v": keys}
    return stacked(
        "self_attn.qkv_proj", {f"self_attn.{name}_proj": rows for name, rows in heights.items()}
    ) | stacked("mlp.gate_up_proj", {"mlp.gate_proj": ffn, "mlp.up_proj": ffn})


def _olmo2_slots(config: Any, layer_type: str) -> Slots:
    return {
        "input_layernorm": Slot("post_attention_layernorm"),
        "post_attention_layernorm": Slot("post_feedforward_layernorm"),
    }


@dataclass(frozen=True)
class Family:
    """Differences of a family from Llama: pre-norm, RMSNorm, rotary attention, SwiGLU.

    Attributes:
        biases: which projections have a bias, by the config.
        qk_norm: whether every query and key head is normed.
        backbone: further fields of the backbone, by the config.
        slots: where a layer's modules are stored if not under Llama's names, by the config and the layer's
            type.
        spellings: parts of names that are also written otherwise: the spelling -> the name.
        joined: modules that may be stored in parts: the name -> those of its parts.
        factors: modules whose weights and biases are multiplied, by the config, because the family multiplies
            activations instead.
        fields: fields of config.json of its own that are numbers.
        centred: whether norms are stored as differences from one.
        hybrid: whether layers may be Gated DeltaNet (`linear_attention`).
        mixers: options of mixers, by the config.
        refusals: what of a config can't be carried.
        windows: the layers that `sliding_window` applies to: none, all, or those that `layer_types` names.
    """

    biases: Callable[[Any], tuple[str, ...]] = lambda config: ()
    qk_norm: bool = False
    backbone: Callable[[Any], Mapping[str, Any]] = lambda config: {}
    slots: Callable[[Any, str], Slots] = lambda config, layer_type: {}
    spellings: Mapping[str, str] = field(default_factory=dict)
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    factors: Callable[[Any], Mapping[str, float]] = lambda config: {}
    fields: tuple[str, ...] = ()
    centred: bool = False
    hybrid: bool = False
    mixers: Callable[[Any], dict[str, dict[str, Any]]] = lambda config: {}
    refusals: Callable[[Any], Iterator[Refusal]] = lambda config: iter(())
    windows: str = "none"

    def spelled(self, stored: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        """Return the stored tensors in this family's usual spelling, with parts joined along their rows."""
        tensors = {
            ".".join(self.spellings.get(part, part) for part in name.split(".")): info
            for name, info in stored.items()
        }
        for whole, (first, *others) in self.joined.items():
            for name in [name for name in tensors if f".{first}." in name]:
                rest = [name.replace(f".{first}.", f".{other}.") for other in others]
                if not all(other in tensors and tensors[other].shape for other in rest):
                    continue
                start, *more = (tensors.pop(part) for part in (name, *rest))
                height = sum(info.shape[0] for info in (start, *more))
                joined = replace(start, shape=(height, *start.shape[1:]), more=tuple(more))
                tensors[name.replace(f".{first}.", f".{whole}.")] = joined
        return tensors


FAMILIES: dict[str, Family] = {
    "llama": Family(_llama_biases),
    "mistral": Family(windows="all"),
    "qwen2": Family(lambda config: _ATTENTION, windows="layer_types"),
    "qwen3": Family(
        lambda config: (*_ATTENTION, "o") if config.attention_bias else (),
        qk_norm=True,
        windows="layer_types",
    ),
    "phi3": Family(
        slots=_phi3_slots,
        windows="all",
    ),
    "granite": Family(
        _llama_biases,
        factors=_granite_factors,
        fields=("embedding_multiplier", "logits_scaling", "attention_multiplier", "residual_multiplier"),
    ),
    "smollm3": Family(_llama_biases, backbone=_no_rope_layers, windows="layer_types"),
    "olmo2": Family(
        lambda config: ("q", "k", "v", "o") if config.attention_bias else (),
        qk_norm=True,
        backbone=lambda config: {"joint_qk_norm": True, "post_norm": True},
        slots=_olmo2_slots,
    ),
    "qwen3_5_text": Family(
        qk_norm=True,
        slots=hybrids.qwen3_5_slots,
        centred=True,
        hybrid=True,
        mixers=hybrids.gated_options,
        refusals=hybrids.refusals,
    ),
    "qwen3_next": Family(
        qk_norm=True,
        slots=hybrids.qwen3_next_slots,
        centred=True,
        hybrid=True,
        mixers=hybrids.gated_options,
        refusals=hybrids.qwen3_next_refusals,
    ),
    "olmo_hybrid": Family(
        qk_norm=True,
        backbone=hybrids.olmo_hybrid_backbone,
        slots=lambda config, layer_type: (
            hybrids.olmo_hybrid_slots(config)
            if layer_type == hybrids.LINEAR
            else _olmo2_slots(config, layer_type)
        ),
        hybrid=True,
        spellings={
            "attention_layer_norm": "input_layernorm",
            "feedforward_layer_norm": "post_attention_layernorm",
        },
        joined={"conv1d": ("q_conv1d", "k_conv1d", "v_conv1d")},
        mixers=lambda config: {"G": hybrids.olmo_hybrid_options(config)},
        refusals=hybrids.refusals,
    ),
}

LETTERS = {MIXERS[letter].layer_type: letter for letter in "FWG"}  # by the words of `layer_types`
_QKVO = ("q", "k", "v", "o")
_FFN = {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
_TOP = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
# computed buffers that old checkpoints contain
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "rotary_emb.original_inv_freq")


def source_name(name: str) -> str | None:
    """Return the name of a tensor in transformers' Llama, or None if it can't have one.

    `layers.3.mixer.q.weight` is `model.layers.3.self_attn.q_proj.weight`. What a mixer has beyond Llama's
    attention is in `self_attn` too, under our name.
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
        case ["mixer"]:
            return f"{prefix}.self_attn.{kind}"
        case ["mixer", item]:
            return f"{prefix}.self_attn.{f'{item}_proj' if item in _QKVO else item}.{kind}"
        case ["ffn", item] if item in _FFN:
            return f"{prefix}.{_FFN[item]}.{kind}"
    return None
