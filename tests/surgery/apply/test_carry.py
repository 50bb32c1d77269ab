"""Dense, unlooped surgery keeps the model: transformers' own logits and its 64 greedy tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.apply.execute import execute
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.hf.configuration import NasConfig
from surgery.hf.modeling import NasForCausalLM

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
GRANITE = {
    "embedding_multiplier": 12.0, "logits_scaling": 8.0, "attention_multiplier": 0.015625,
    "residual_multiplier": 0.22,
}  # fmt: skip
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
}  # fmt: skip
QWEN3_5 = {
    **DELTA, "head_dim": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
}  # fmt: skip
QWEN3_NEXT = {**QWEN3_5, "num_experts": 0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1}),
    "llama-head-dim": ("llama", {"head_dim": 12}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-5}),
    "llama-yarn": ("llama", {"rope_parameters": YARN, "head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-wide-window": ("mistral", {"sliding_window": 256, "head_dim": 20, "num_key_value_heads": 1}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied-yarn": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3-odd": (
        "qwen3",
        {"head_dim": 10, "num_key_value_heads": 1, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "mistral-window": ("mistral", {"sliding_window": 24}),
    "qwen2-windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2},
    ),
    "qwen3-windows": (
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 9,
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "phi3": ("phi3", {}),
    "phi3-window": ("phi3", {"sliding_window": 24, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 3}),
    "smollm3-windows": (
        "smollm3",
        {
            "no_rope_layers": [0, 1, 1, 0],
            "use_sliding_window": True,
            "sliding_window": 24,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "olmo2": ("olmo2", {}),
    "olmo2-tied-biases": (
        "olmo2",
        {"tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 1},
    ),
    "qwen3.5": ("qwen3_5_text", QWEN3_5),
    "qwen3.5-repeated": (
        "qwen3_5_text",
        {
            **QWEN3_5,
            "linear_num_value_heads": 4,
            "linear_conv_kernel_dim": 2,
            "head_dim": 10,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "full_attention_interval": 2,
            "rms_norm_eps": 1e-5,
        },
    ),
    "qwen3-next": ("qwen3_next", QWEN3_NEXT),
    "qwen3-next-repeated": (
        "qwen3_next",
        {
            **QWEN3_NEXT,
            "linear_num_value_heads": 4,
            "linear_conv_kernel_dim": 2,
            "head_dim": 12,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "num_experts": 4,
            "mlp_only_layers": [0, 1, 2, 3],
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "olmo-hybrid": ("olmo_hybrid", DELTA),
    "olmo-hybrid-repeated": (
        "olmo_hybrid",
        {
            **DELTA,
            "linear_num_value_heads": 6,
            "linear_allow_neg_eigval": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": None},
            "layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"],
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-4,
        },
    ),
    "granite": ("granite", GRANITE),
    "granite-tied-biases": (
        "granite",
        {**GRANITE, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
}


def greedy(model: Any, prompt: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(prompt)
    settings = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    result: torch.Tensor = model.generate(prompt, attention_mask=mask, use_cache=True, **settings)
    return result


@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_tokens_are_those_of_transformers(
    case: str, checkpoint: Callable[..., Path]
) -> None:
    from transformers import AutoModelForCausalLM

    family, options = CASES[case]
    folder = checkpoint(family, **options)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    source = read_source(folder)
    drawn = plan(source, {})
    model, fits = execute(source, drawn)
    ours = NasForCausalLM.wrap(model, NasConfig(drawn.after.to_dict(), pad_token_id=0)).eval()
    tokens = torch.randint(61, (2, 100))
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, atol=1e-4, rtol=0)
        assert torch.equal(greedy(ours, tokens[:1, :8]), greedy(theirs, tokens[:1, :8]))
    assert fits == ()
    assert {tensor.action for tensor in drawn.tensors} <= {"kept", "shared"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_carried_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    from tests.surgery.apply.conftest import random_model

    original = random_model("qwen2").to(dtype)
    original.save_pretrained(tmp_path / "source")
    source = read_source(tmp_path / "source")
    model, _ = execute(source, plan(source, {}))
    assert model.layers[3].ffn.down.weight.dtype == dtype  # type: ignore[union-attr]
    theirs = original.state_dict()["model.layers.3.mlp.down_proj.weight"]
    assert torch.equal(model.state_dict()["layers.3.ffn.down.weight"], theirs)
    drawn = plan(source, {"projections": [{"match": "up", "operator": "hdpl", "blocks": 4, "rank": 8}]})
    fitted, _ = execute(source, drawn)
    assert {tensor.dtype for tensor in fitted.state_dict().values()} == {dtype}


def test_the_old_spelling_of_rope_is_read_alike(checkpoint: Callable[..., Path]) -> None:
    import json

    folder = checkpoint("llama", rope_parameters=LLAMA3)
    new = read_source(folder).backbone
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = rope
    path.write_text(json.dumps(config))
    assert read_source(folder).backbone == new
