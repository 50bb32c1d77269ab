"""Families of attention and Gated DeltaNet layers: Qwen3.5, Qwen3-Next and OLMo-Hybrid.

Where there are more value heads than key heads, each key head serves several value heads. The mixer `G` has
as many of both, so that queries and keys are repeated, which computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surgery.apply.slots import Refusal, Slot, Spans, evenly, head_width, repeated, stacked
from surgery.mixers.delta.sizes import MAX_CONV
from surgery.mixers.head_sizes import MAX_EXPAND, MAX_HEADS, MAX_KEY_RATIO, MIN_EXPAND, STEP

LINEAR = "linear_attention"
# attention has an output gate, and rotates a quarter of a head unless the config says otherwise
GATED = ("qwen3_5_text", "qwen3_next")
OLMO_HYBRID_EPS = 1e-5  # of the norm of a Gated DeltaNet's output, whatever the config says


def delta_options(config: Any) -> dict[str, Any]:
    """Return the options of `G` with the sizes of a config."""
    heads, key = config.linear_num_value_heads, config.linear_key_head_dim
    return {
        "key_ratio": heads * key / config.hidden_size,
        "expand_v": config.linear_value_head_dim / key,
        "heads": heads,
        "conv_size": config.linear_conv_kernel_dim,
    }


def gated_options(config: Any) -> dict[str, dict[str, Any]]:
    """Return the options of `F` and `G` of a family in `GATED`."""
    return {"F": {"gate": True}, "G": delta_options(config)}


def olmo_hybrid_options(config: Any) -> dict[str, Any]:
    """Return the options of `G` of an OLMo-Hybrid."""
    return {
        **delta_options(config),
        "negative_eigenvalues": bool(config.linear_allow_neg_eigval),
        "norm_eps": OLMO_HYBRID_EPS,
    }


def olmo_hybrid_backbone(config: Any) -> dict[str, Any]:
    """Return the fields of the backbone: norms stand behind attention, but before Gated DeltaNet.

    A base of the rotary angles of null means that there are none.
    """
    spared = [str(index) for index, kind in enumerate(config.layer_types) if kind == LINEAR]
    fields = {"joint_qk_norm": True, "post_norm": True, "pre_norm_layers": ",".join(spared)}
    if config.rope_parameters.get("rope_theta") is None:
        fields["no_rope_layers"] = f"0-{config.num_hidden_layers - 1}"
    return fields


def refusals(config: Any) -> Iterator[Refusal]:
    """Yield what can't be carried of any family's config."""
    if config.attention_bias:
        yield Refusal(
            "attention_bias", True, "biases in attention but not in Gated DeltaNet can't be carried"
        )
    if LINEAR not in config.layer_types:
        return
    heads, key = config.linear_num_value_heads, config.linear_key_head_dim
    value, width = config.linear_value_head_dim, config.hidden_size
    limits = (
        ("linear_num_key_heads", heads % config.linear_num_key_heads == 0,
         f"must divide linear_num_value_heads ({heads})"),
        ("linear_num_value_heads", heads <= MAX_HEADS, f"must be at most {MAX_HEADS}"),
        ("linear_key_head_dim", key % STEP == 0, f"must be a multiple of {STEP}"),
        ("linear_key_head_dim", heads * key <= MAX_KEY_RATIO * width,
         f"must be at most {MAX_KEY_RATIO * width / heads:g}, {MAX_KEY_RATIO:g} hidden_size over all heads"),
        ("linear_value_head_dim", value >= STEP and MIN_EXPAND * key <= value <= MAX_EXPAND * key,
         f"must be at least {STEP}, and {MIN_EXPAND:g} to {MAX_EXPAND:g} times linear_key_head_dim ({key})"),
        ("linear_conv_kernel_dim", 2 <= config.linear_conv_kernel_dim <= MAX_CONV,
         f"must be 2 to {MAX_CONV}"),
    )  # fmt: skip
    for field, fits, rule in limits:
        if not fits:
            yield Refusal(field, getattr(config, field), f"{rule} to be carried")


def qwen3_next_refusals(config: Any) -> Iterator[Refusal]:
    """Yield what can't be carried of a Qwen3-Next config: experts too."""
    yield from refusals(config)
    experts = [
        index for index in range(config.num_hidden_layers)
        if config.num_experts > 0
        and index not in config.mlp_only_layers
        and (index + 1) % config.decoder_sparse_step == 0
    ]  # fmt: skip
    if experts:
        rule = f"{len(experts)} of {config.num_hidden_layers} layers have experts, which can't be carried"
        yield Refusal("num_experts", config.num_experts, rule, "only dense models can be rewritten")


def qwen3_next_slots(config: Any, layer_type: str) -> dict[str, Slot]:
    """Return where a layer's tensors are: q with the gate by head, and Gated DeltaNet's maps by key head."""
    if layer_type != LINEAR:
        return _gated_attention_slots(config)
    heads, key = config.linear_num_key_heads, config.linear_key_head_dim
    group = config.linear_num_value_heads // heads
    value = group * config.linear_value_head_dim
    maps = {"q_proj": key, "k_proj": key, "v_proj": value, "output_gate": value}
    slots = stacked(
        "linear_attn.in_proj_qkvz", {f"self_attn.{name}": rows for name, rows in maps.items()}, heads
    )
    for name in ("self_attn.q_proj", "self_attn.k_proj"):
        rows = slots[name].rows
        assert rows is not None
        slots[name] = Slot(slots[name].stored, repeated(rows, group))
    return {
        **_same_slots(config),
        **slots,
        **stacked("linear_attn.in_proj_ba", {"self_attn.beta": group, "self_attn.decay": group}, heads),
        "self_attn.o_proj": Slot("linear_attn.out_proj"),
        "self_attn.norm": Slot("linear_attn.norm"),
    }


def qwen3_5_slots(config: Any, layer_type: str) -> dict[str, Slot]:
    """Return where a layer's tensors are: q with the gate by head, and stacked q, k and v."""
    if layer_type != LINEAR:
        return _gated_attention_slots(config)
    names = {
        "o_proj": "out_proj", "beta": "in_proj_b", "decay": "in_proj_a", "output_gate": "in_proj_z",
        "norm": "norm",
    }  # fmt: skip
    return {
        **_same_slots(config),
        **{f"self_attn.{ours}": Slot(f"linear_attn.{theirs}") for ours, theirs in names.items()},
        **{
            f"self_attn.{name}_proj": Slot("linear_attn.in_proj_qkv", rows)
            for name, rows in zip("qkv", _qkv_rows(config), strict=True)
        },
    }


def _gated_attention_slots(config: Any) -> dict[str, Slot]:
    """Return the slots of attention whose q holds, for each head, its query and then its gate."""
    width = head_width(config)
    heights = {"self_attn.q_proj": width, "self_attn.gate": width}
    return stacked("self_attn.q_proj", heights, config.num_attention_heads)


def olmo_hybrid_slots(config: Any) -> dict[str, Slot]:
    """Return where the tensors of a Gated DeltaNet layer are."""
    names = {
        "v_proj": "v_proj", "o_proj": "o_proj", "beta": "b_proj", "decay": "a_proj", "output_gate": "g_proj",
        "norm": "o_norm",
    }  # fmt: skip
    keys = _key_rows(config, 0)
    return {
        **_same_slots(config),
        **{f"self_attn.{ours}": Slot(f"linear_attn.{theirs}") for ours, theirs in names.items()},
        "self_attn.q_proj": Slot("linear_attn.q_proj", keys),
        "self_attn.k_proj": Slot("linear_attn.k_proj", keys),
    }


def _same_slots(config: Any) -> dict[str, Slot]:
    """Return the slots of the convolution, over q, then k, then v, and of the rates' parameters."""
    queries, keys, values = _qkv_rows(config)
    return {
        "self_attn.conv": Slot("linear_attn.conv1d.weight", (*queries, *keys, *values)),
        "self_attn.A_log": Slot("linear_attn.A_log"),
        "self_attn.dt_bias": Slot("linear_attn.dt_bias"),
    }


def _qkv_rows(config: Any) -> tuple[Spans, Spans, Spans]:
    """Return the rows of q, k and v where the three are stacked."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    return _key_rows(config, 0), _key_rows(config, keys), ((2 * keys, 2 * keys + values),)


def _key_rows(config: Any, start: int) -> Spans:
    """Return the rows of the key heads from `start` on, each repeated for its value heads."""
    key = config.linear_key_head_dim
    spans = evenly(start, key, config.linear_num_key_heads, key)
    return repeated(spans, config.linear_num_value_heads // config.linear_num_key_heads)
