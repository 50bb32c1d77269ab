"""Classes of transformers that compute an architecture exactly: such results run without this package.

Qwen2 and Qwen3 name windowed layers in `layer_types`, Mistral has one window for all layers, and Qwen3.5,
Qwen3-Next and OLMo-Hybrid mix Gated DeltaNet and attention. Where none fits, the reasons are said, and the
model has a class of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from surgery.apply.hybrids import GATED, OLMO_HYBRID_EPS
from surgery.architecture import Architecture
from surgery.config.backbone import TRANSFORMERS_NAMES
from surgery.hf.configuration import MODEL_TYPE
from surgery.mixers import MIXERS
from surgery.mixers.gdn.sizes import resolve

_QKV = frozenset("qkv")
_QKVO = frozenset("qkvo")
_FFN = frozenset(("gate", "up", "down"))


@dataclass(frozen=True)
class Export:
    """The class that a result is written as.

    Attributes:
        model_type: of transformers, or of this package.
        class_name: of the model.
        reasons: differences from the class that comes nearest; empty for a stock class.
    """

    model_type: str
    class_name: str
    reasons: tuple[str, ...] = ()

    @property
    def is_stock(self) -> bool:
        """True if transformers computes it without this package."""
        return self.model_type != MODEL_TYPE


OURS = Export(MODEL_TYPE, "NasForCausalLM")


@dataclass(frozen=True)
class _Stock:
    """A class of transformers: what sets it apart, and its own fields of config.json.

    Attributes:
        class_name: of the model.
        mixers: letters that it computes.
        biases: sets of projections that may have biases.
        fields: further fields of config.json, by the architecture.
        backbone: fields of the backbone with values other than the default.
        one_mixer: whether all layers have the same mixer.
        no_rope: whether layers may be without rotary embeddings.
    """

    class_name: str
    mixers: str
    biases: tuple[frozenset[str], ...]
    fields: Callable[[Architecture], dict[str, Any]]
    backbone: frozenset[str] = frozenset()
    one_mixer: bool = False
    no_rope: bool = False


def _attention_bias(architecture: Architecture) -> dict[str, Any]:
    return {"attention_bias": "q" in architecture.backbone.biases}


def _llama(architecture: Architecture) -> dict[str, Any]:
    return {**_attention_bias(architecture), "mlp_bias": "up" in architecture.backbone.biases}


def _window(architecture: Architecture) -> int | None:
    """Return the window of the `W` layers in tokens, or None if there are none."""
    windows = [layer.mixer_options["window"] for layer in architecture.layers if layer.mixer == "W"]
    return int(windows[0]) if windows else None


def _windows(architecture: Architecture) -> dict[str, Any]:
    window = _window(architecture)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "layer_types": [MIXERS[layer.mixer].layer_type for layer in architecture.layers],
    }


def _smollm3(architecture: Architecture) -> dict[str, Any]:
    depth = architecture.backbone.num_layers
    without = architecture.backbone.layers_without_rope(depth)
    rotary = {"no_rope_layers": [int(index not in without) for index in range(depth)]}
    return {**_windows(architecture), **_llama(architecture), **rotary}


def _hybrid(architecture: Architecture) -> dict[str, Any]:
    sizes = next(
        resolve(architecture.backbone, layer.mixer_options)
        for layer in architecture.layers
        if layer.mixer == "G"
    )
    return {
        "layer_types": [MIXERS[layer.mixer].layer_type for layer in architecture.layers],
        "attention_bias": False,
        "linear_conv_kernel_dim": sizes.conv,
        "linear_key_head_dim": sizes.key,
        "linear_value_head_dim": sizes.value,
        "linear_num_key_heads": sizes.heads,
        "linear_num_value_heads": sizes.heads,
    }


def _olmo_hybrid(architecture: Architecture) -> dict[str, Any]:
    doubled = any(layer.mixer_options.get("negative_eigenvalues") for layer in architecture.layers)
    return {**_hybrid(architecture), "linear_allow_neg_eigval": doubled}


_LLAMA_BIASES = (frozenset[str](), _QKVO, _FFN, _QKVO | _FFN)

# in order of preference, behind the checkpoint's own family
_CLASSES: dict[str, _Stock] = {
    "llama": _Stock("LlamaForCausalLM", "F", _LLAMA_BIASES, _llama),
    "mistral": _Stock(
        "MistralForCausalLM", "FW", (frozenset(),), lambda item: {"sliding_window": _window(item)},
        one_mixer=True,
    ),
    "qwen2": _Stock("Qwen2ForCausalLM", "FW", (_QKV,), _windows),
    "qwen3": _Stock(
        "Qwen3ForCausalLM", "FW", (frozenset(), _QKVO),
        lambda item: {**_windows(item), **_attention_bias(item)}, frozenset({"qk_norm"}),
    ),
    "smollm3": _Stock("SmolLM3ForCausalLM", "FW", _LLAMA_BIASES, _smollm3, no_rope=True),
    "olmo2": _Stock(
        "Olmo2ForCausalLM", "F", (frozenset(), _QKVO), _attention_bias,
        frozenset({"qk_norm", "joint_qk_norm", "post_norm"}),
    ),
    # before Qwen3-Next, which computes the same, but which llama.cpp refuses without experts
    "qwen3_5_text": _Stock(
        "Qwen3_5ForCausalLM", "FG", (frozenset(),), _hybrid, frozenset({"qk_norm"}),
    ),
    "qwen3_next": _Stock(
        "Qwen3NextForCausalLM", "FG", (frozenset(),),
        lambda item: {**_hybrid(item), "num_experts": 0}, frozenset({"qk_norm"}),
    ),
    "olmo_hybrid": _Stock(
        "OlmoHybridForCausalLM", "FG", (frozenset(),), _olmo_hybrid,
        frozenset({"qk_norm", "joint_qk_norm", "post_norm"}), no_rope=True,
    ),
}  # fmt: skip


def choose_export(architecture: Architecture, family: str) -> Export:
    """Return the class that a result is written as: a stock one if one computes exactly the same.

    Args:
        architecture: of the result.
        family: `model_type` of the checkpoint, whose class is preferred.
    """
    names = sorted(_CLASSES, key=lambda name: name != family)  # stable
    misfits = {name: _misfits(architecture, _CLASSES[name], name) for name in names}
    for name, reasons in misfits.items():
        if not reasons:
            return Export(name, _CLASSES[name].class_name)

    def distance(name: str) -> tuple[int, int]:
        """Return the mixers that a class lacks, then its other differences."""
        return len(set(architecture.layout) - set(_CLASSES[name].mixers)), len(misfits[name])

    nearest = min(names, key=distance)
    differences = tuple(f"{_CLASSES[nearest].class_name}: {reason}" for reason in misfits[nearest])
    return replace(OURS, reasons=differences)


def stock_config(architecture: Architecture, export: Export) -> dict[str, Any]:
    """Return the fields of config.json of a stock class, without special tokens."""
    backbone, sizes = architecture.backbone, architecture.shared_sizes()
    rope = {"rope_type": "default", **(backbone.rope_scaling or {}), "rope_theta": backbone.rope_theta}
    if export.model_type in GATED:
        rope["partial_rotary_factor"] = 1.0
    if export.model_type == "qwen3_5_text":
        rope |= {"mrope_interleaved": True, "mrope_section": _position_sections(backbone.head_dim)}
    if export.model_type == "olmo_hybrid" and backbone.no_rope_layers:
        rope = {"rope_type": "default", "rope_theta": None}
    return {
        **{theirs: getattr(sizes, ours) for theirs, ours in TRANSFORMERS_NAMES.items()},
        "rope_parameters": rope,
        "hidden_act": "silu",
        **_CLASSES[export.model_type].fields(architecture),
    }


def _position_sections(head_dim: int) -> list[int]:
    """Return how many angles of a head turn with the time, the height and the width of a token in an image.

    Each has every third angle. In a text all three are the token's position, so that transformers computes
    the same with any sections; llama.cpp leaves angles beyond them unrotated.
    """
    return [(head_dim // 2 + 2 - axis) // 3 for axis in range(3)]


def _misfits(architecture: Architecture, stock: _Stock, name: str) -> list[str]:
    """Return the differences of an architecture from what a class computes."""
    backbone, layers = architecture.backbone, architecture.layers
    reasons = []
    operators = {item.name for layer in layers for item in layer.projections.values()}
    if operators != {"dense"}:
        reasons.append(f"has no {', '.join(sorted(operators - {'dense'}))} projections")
    if architecture.loop_count > 1 or architecture.window(0) is not None:
        reasons.append("has no loops")
    letters = set(architecture.layout)
    if extra := letters - set(stock.mixers):
        reasons.append(f"has no {', '.join(sorted(extra))} layers")
    elif stock.one_mixer and len(letters) > 1:
        reasons.append("has the same window in all layers")
    if "G" in stock.mixers and "G" not in letters:
        reasons.append("has Gated DeltaNet layers")
    if "G" in stock.mixers and "F" not in letters:  # without any, transformers' cache can't tell its length
        reasons.append("has attention layers")
    if set(backbone.biases) not in stock.biases:
        reasons.append(f"can't have biases in just {', '.join(backbone.biases) or 'no projection'}")
    for field in ("qk_norm", "joint_qk_norm", "post_norm"):
        if getattr(backbone, field) != (field in stock.backbone):
            reasons.append(f"{'has' if field in stock.backbone else 'has no'} {field}")
    depth = backbone.num_layers
    if backbone.no_rope_layers and not stock.no_rope:
        reasons.append("has rotary embeddings in all layers")
    if name == "olmo_hybrid" and len(backbone.layers_without_rope(depth)) not in (0, depth):
        reasons.append("has rotary embeddings in all layers or in none")
    if backbone.post_norm and "post_norm" in stock.backbone:
        spared = "G" if name == "olmo_hybrid" else ""
        wanted = tuple(index for index, letter in enumerate(architecture.layout) if letter not in spared)
        if backbone.layers_with_post_norm(depth) != wanted:
            reasons.append(f"has norms after {'F layers, and before G' if spared else 'all'} layers")
    if not extra:
        reasons += _option_misfits(architecture, name)
    return reasons + _size_misfits(architecture)


def _size_misfits(architecture: Architecture) -> list[str]:
    """Return the sizes that differ between layers; every class here has the same in all."""
    sizes, layers = architecture.shared_sizes(), architecture.layers
    widths = {layer.ffn_dim for layer in layers}
    heads = {MIXERS[layer.mixer].kv_heads(architecture.backbone, layer.mixer_options) for layer in layers}
    reasons = {
        "has feed-forward parts in all layers": 0 in widths,
        "has the same feed-forward width in all layers": len(widths - {0}) > 1,
        "has as many key/value heads in all layers": len(heads - {None, sizes.num_kv_heads}) > 0,
    }
    return [reason for reason, differs in reasons.items() if differs]


def _option_misfits(architecture: Architecture, name: str) -> list[str]:
    """Return the differences in options of mixers."""
    reasons: dict[str, None] = {}
    options: dict[str, list[dict[str, Any]]] = {}
    for layer in architecture.layers:
        own = {key: value for key, value in layer.mixer_options.items() if key != "kv_heads"}
        options.setdefault(layer.mixer, []).append(own)
    for letter, each in options.items():
        if any(other != each[0] for other in each):
            reasons[f"has the same options in all {letter} layers"] = None
    for letter in {"F", "W"} & options.keys():
        for option, value in options[letter][0].items():
            if value and option != "window" and not (name in GATED and option == "gate"):
                reasons[f"has no {option} in {letter} layers"] = None
    if "G" in options:
        backbone = architecture.backbone
        sizes, olmo = resolve(backbone, options["G"][0]), name == "olmo_hybrid"
        eps = OLMO_HYBRID_EPS if olmo else backbone.norm_eps
        for fits, rule in (
            (sizes.gate, "always has an output gate in G layers"),
            (sizes.decay, "always has a decay in G layers"),
            (sizes.conv > 0, "always has a convolution in G layers"),
            (backbone.norm_eps > 0, "always has an epsilon in norms"),
            (
                options["G"][0]["norm_eps"] in ((eps,) if backbone.norm_eps != eps else (0, eps)),
                f"has the epsilon {eps:g} in output norms of G layers",
            ),
            (olmo or not sizes.negative_eigenvalues, "has no negative eigenvalues in G layers"),
        ):
            if not fits:
                reasons[rule] = None
    return list(reasons)
