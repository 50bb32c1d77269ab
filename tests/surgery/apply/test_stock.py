"""Results that a class of transformers computes: written as that class, and proven without this package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.apply.execute import rewrite
from surgery.apply.pipeline import publish
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.apply.stock import choose_export
from surgery.apply.stock_export import write_stock
from surgery.apply.verify import verify
from surgery.architecture import Architecture
from surgery.hf.lazy import LazyModel
from surgery.model import HybridLM
from tests.models import BACKBONE, architecture, build

Make = Callable[..., Path]
W = {"W": {"window": 8}}
G = {"G": {"key_ratio": 1.0, "expand_v": 1.0, "heads": 2}}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
OLMO_G = {"G": {**G["G"], "norm_eps": 1e-5}}
OLMO = {
    "qk_norm": True, "joint_qk_norm": True, "post_norm": True, "pre_norm_layers": "0", "num_layers": 2,
}  # fmt: skip
CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("llama", "F", {}, {}),
    ("llama", "F", {}, {"biases": ["q", "k", "v", "o", "gate", "up", "down"], "tie_embeddings": True}),
    ("llama", "F", {"F": {"kv_heads": 1}}, {}),
    ("mistral", "W", W, {}),
    ("smollm3", "FW", {"F": {"kv_heads": 4}, "W": {"window": 8, "kv_heads": 4}}, {}),
    ("smollm3", "FW", W, {}),
    ("smollm3", "FWF", W, {"num_layers": 3, "no_rope_layers": "1", "biases": ["gate", "up", "down"]}),
    ("qwen2", "F", {}, {"biases": ["q", "k", "v"]}),
    ("qwen2", "WF", W, {"biases": ["q", "k", "v"]}),
    ("qwen3", "WF", W, {"qk_norm": True, "biases": ["q", "k", "v", "o"]}),
    ("olmo2", "F", {}, {"qk_norm": True, "joint_qk_norm": True, "post_norm": True}),
    ("qwen3_5_text", "GF", G, {"qk_norm": True}),
    ("qwen3_5_text", "GGF", {**G, "F": {"gate": True}}, {"qk_norm": True, "num_layers": 3}),
    ("qwen3_5_text", "GF", {}, {"qk_norm": True, "tie_embeddings": True, "rope_scaling": YARN}),
    ("qwen3_next", "GF", G, {"qk_norm": True}),
    ("olmo_hybrid", "GF", OLMO_G, OLMO),
    (
        "olmo_hybrid",
        "GF",
        {"G": {**OLMO_G["G"], "negative_eigenvalues": True}},
        {**OLMO, "no_rope_layers": "0-1", "tie_embeddings": True},
    ),
]


@pytest.mark.parametrize(("kind", "layout", "mixers", "backbone"), CASES)
def test_a_stock_class_gives_the_same_logits_and_tokens(
    kind: str, layout: str, mixers: dict[str, Any], backbone: dict[str, Any], tmp_path: Path
) -> None:
    """At 40 tokens, which is more than the windows, and cached against uncached decoding."""
    from transformers import AutoModelForCausalLM

    model = build(architecture(layout, mixers=mixers, **backbone), spread=0.3)
    export = choose_export(model.architecture, kind if kind == "qwen3_next" else "llama")
    assert (export.model_type, export.reasons) == (kind, ())
    write_stock(LazyModel.of(model), export, tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded).__name__ == export.class_name
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert sum(p.numel() for p in loaded.parameters()) >= sum(p.numel() for p in model.parameters())
    ids = torch.randint(37, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model.head(model(ids)), loaded(ids).logits
        assert (ours - theirs).abs().max() <= 1e-4 * ours.abs().max()
        cached, plain = (
            loaded.generate(ids[:1], max_new_tokens=24, do_sample=False, use_cache=cache, pad_token_id=0)
            for cache in (True, False)
        )
    assert torch.equal(cached, plain)


@pytest.mark.parametrize(
    ("layout", "options", "said"),
    [
        ("F", {"projections": [{"match": "up", "operator": "hdpl", "blocks": 2, "rank": 4}]}, "has no hdpl"),
        ("F", {"loops": 2}, "has no loops"),
        ("FS", {}, "has no S layers"),
        ("G", {"qk_norm": True}, "Qwen3_5ForCausalLM: has attention layers"),
        ("GF", {}, "Qwen3_5ForCausalLM: has qk_norm"),
        ("GF", {"qk_norm": True, "mixers": {"G": {"negative_eigenvalues": True}}}, "negative eigenvalues"),
        ("GF", {"qk_norm": True, "mixers": {"G": {"conv_size": 0}}}, "always has a convolution"),
        ("F", {"mixers": {"F": {"gate": True}}}, "has no gate in F layers"),
        ("GF", {**OLMO, "mixers": G}, "OlmoHybridForCausalLM: has the epsilon 1e-05 in output norms"),
        ("FG", {**OLMO, "mixers": OLMO_G}, "OlmoHybridForCausalLM: has norms after F layers, and before G"),
        ("GF", {**OLMO, "mixers": OLMO_G, "no_rope_layers": "1"}, "in all layers or in none"),
        ("GF", {"qk_norm": True, "mixers": OLMO_G}, "Qwen3_5ForCausalLM: has the epsilon 1e-06"),
        ("F", {"biases": ["up"]}, "biases in just up"),
        ("FW", {"mixers": {"W": {"window": 8, "sinks": 4}}}, "has no sinks in W layers"),
        ("FW", {"mixers": {"W": {"window": 8, "kv_heads": 1}}}, "has as many key/value heads in all layers"),
        ("F", {"mixers": {"F": [{"layers": 0, "kv_heads": 4}]}}, "has as many key/value heads in all layers"),
        ("W", {"mixers": {"W": [{"layers": 0, "window": 4}]}}, "has the same options in all W layers"),
        ("FN", {}, "has no N layers"),
        ("F", {"ffn": [{"layers": 0, "dim": 8}]}, "has the same feed-forward width in all layers"),
        ("F", {"ffn": [{"layers": 0, "dim": 0}]}, "has feed-forward parts in all layers"),
    ],
)
def test_what_keeps_a_model_from_a_stock_class_is_said(
    layout: str, options: dict[str, Any], said: str
) -> None:
    export = choose_export(architecture(layout, **options), "llama")
    assert not export.is_stock
    assert said in "; ".join(export.reasons)


def test_the_family_of_the_checkpoint_is_preferred() -> None:
    dense = architecture("F")
    assert choose_export(dense, "llama").model_type == "llama"
    assert choose_export(dense, "mistral").model_type == "mistral"
    assert choose_export(dense, "phi3").model_type == "llama"
    hybrid = architecture("GF", qk_norm=True)
    assert choose_export(hybrid, "qwen3_next").model_type == "qwen3_next"
    assert choose_export(hybrid, "qwen3").model_type == "qwen3_5_text"


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_a_result_is_proven_without_this_package(checkpoint: Make, tmp_path: Path, family: str) -> None:
    """In a process that can't import `surgery`; with windows, and for Qwen3 with Gated DeltaNet."""
    from transformers import AutoModelForCausalLM

    source = read_source(checkpoint(family, head_dim=8))
    design = {"layout": "FW", "mixers": W} if family == "llama" else {"layout": "GF", "mixers": G}
    drawn = plan(source, design)
    assert drawn.to_dict()["export"]["model_type"] == {"llama": "smollm3", "qwen3": "qwen3_5_text"}[family]
    model, fits = rewrite(source, drawn)
    verification = publish(model, source, drawn, fits, tmp_path / "out")
    assert verification.remote_code
    assert verification.passed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not [name for name in names if name.endswith(".py")]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "auto_map" not in config
    assert f"`{config['model_type']}` model of transformers" in (tmp_path / "out" / "README.md").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    loaded.config.name_or_path = ""
    assert verify(tmp_path / "out", model, remote_code=True).max_logit_difference < 1e-3
    if family == "llama":
        again = read_source(tmp_path / "out")  # and can be rewritten again
        assert again.architecture.layout == "FWFW"


def test_ours_is_written_where_it_is_asked_for(checkpoint: Make) -> None:
    drawn = plan(read_source(checkpoint()), {}, stock=False)
    assert drawn.export.model_type == "nas_hybrid"
    assert drawn.export.reasons == ()


def test_norms_of_half_precision_survive_the_difference_from_one() -> None:
    from surgery.apply.stock_export import stock_state

    arch = Architecture.from_dict({"backbone": {**BACKBONE, "qk_norm": True}, "layout": "GF", "mixers": G})
    model = HybridLM(arch).to(torch.bfloat16)
    with torch.no_grad():
        model.norm.weight.normal_()
    state = stock_state(LazyModel.of(model), choose_export(arch, "qwen3"))
    assert torch.equal((state["model.norm.weight"].read() + 1).to(torch.bfloat16), model.norm.weight)


@pytest.mark.parametrize(
    "sizes",
    [{"intermediate_size": 16}, {"num_key_value_heads": 1}, {"skip": ["mlp"]}, {"skip": ["attention"]}],
)
def test_no_stock_class_builds_layers_of_different_sizes(sizes: dict[str, Any]) -> None:
    """`per_layer_config`, since transformers 5.23, is read by configurations alone. Once Llama reads it, such
    results can be written as Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if not hasattr(LlamaConfig, "per_layer_config"):
        pytest.skip("older than 5.23")
    small = {
        "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    plain = LlamaForCausalLM(LlamaConfig(**small))
    config = LlamaConfig(**small, per_layer_config={1: sizes})
    try:
        model = LlamaForCausalLM(config)
    except RuntimeError as error:
        assert "is a per-layer attribute" in str(error)  # noqa: PT017
        return
    assert "skip" in sizes
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }
