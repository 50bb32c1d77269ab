"""Supported checkpoint families: what sets each one's config and tensors apart from Llama's.

Inside `surgery.apply` every tensor has the name that it has in transformers' Llama ("canonical" here),
whatever its family calls it, and the meaning that it has there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from surgery.apply.weights import TensorInfo

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
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "model.embed_tokens": config.embedding_multiplier,
        "model.norm": 1 / (config.logits_scaling * head),
        "self_attn.q_proj": config.attention_multiplier * width**0.5,
        "self_attn.o_proj": config.residual_multiplier,
        "mlp.down_proj": config.residual_multiplier,
    }


def _no_rope_layers(config: Any) -> dict[str, str]:
    without = [str(index) for index, rotated in enumerate(config.no_rope_layers) if not rotated]
    return {"no_rope_layers": ",".join(without)}


@dataclass(frozen=True)
class Family:
    """Differences of a family from Llama: pre-norm, RMSNorm, rotary attention, SwiGLU.

    Attributes:
        biases: which projections have a bias, by the config.
        qk_norm: whether every query and key head is normed.
        backbone: further fields of the backbone, by the config.
        renamed: Llama's modules of a layer that have another name.
        fused: names of projections that hold several of Llama's, stacked along their outputs in this order.
        factors: modules whose weights and biases are multiplied, by the config, because the family multiplies
            activations instead.
        fields: fields of config.json of its own that are numbers.
        windows: the layers that `sliding_window` applies to: none, all, or those that `layer_types` names.
    """

    biases: Callable[[Any], tuple[str, ...]] = lambda config: ()
    qk_norm: bool = False
    backbone: Callable[[Any], Mapping[str, Any]] = lambda config: {}
    renamed: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    factors: Callable[[Any], Mapping[str, float]] = lambda config: {}
    fields: tuple[str, ...] = ()
    windows: str = "none"


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
        fused={
            "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
        },
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
        renamed={
            "input_layernorm": "post_attention_layernorm",
            "post_attention_layernorm": "post_feedforward_layernorm",
        },
    ),
}

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


@dataclass(frozen=True)
class Part:
    """The location of a canonical tensor: these rows of a stored one, times a factor."""

    stored: str
    stored_shape: tuple[int, ...]
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    factor: float = 1.0

    def of(self, stored: TensorInfo) -> TensorInfo:
        """Return the canonical tensor, given the stored one."""
        return replace(stored, shape=self.shape, rows=self.rows, factor=self.factor)


def parts(kind: str, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Part]:
    """Return the location of each canonical tensor in a checkpoint.

    Args:
        kind: the `model_type`.
        config: transformers' configuration object.
        shapes: of the canonical tensors.
    """
    family = FAMILIES[kind]
    factors = family.factors(config)
    fused = {part: (whole, members) for whole, members in family.fused.items() for part in members}
    located: dict[str, Part] = {}
    for name, shape in shapes.items():
        head, _, suffix = name.rpartition(".")
        module = ".".join(head.split(".")[3:]) if head.startswith("model.layers.") else head
        factor = factors.get(module, 1.0)
        if module not in fused:
            stored = f"{head.removesuffix(module)}{family.renamed.get(module, module)}.{suffix}"
            located[name] = Part(stored, shape, shape, factor=factor)
            continue
        whole, members = fused[module]
        prefix = head.removesuffix(module)
        heights = [shapes[f"{prefix}{member}.{suffix}"][0] for member in members]
        start = sum(heights[: members.index(module)])
        located[name] = Part(
            f"{prefix}{whole}.{suffix}", (sum(heights), *shape[1:]), shape, (start, start + shape[0]), factor
        )
    return located
