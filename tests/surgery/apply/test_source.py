"""Models that can't be converted are refused, all reasons at once, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgery.apply.names import by_layers
from surgery.apply.pipeline import apply
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.config.problems import UserError
from tests.surgery.apply.test_carry import QWEN3_NEXT

Make = Callable[..., Path]


def edit_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))
    return folder


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"model_type": "gemma2"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rope_type"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"per_layer_config": {"1": {"intermediate_size": 16}}}, "per_layer_config"),
        ({"per_layer_config": {"1": {"skip": ["mlp"]}}}, "per_layer_config"),
    ],
)
def test_a_config_that_cannot_be_carried_is_named(
    checkpoint: Make, changes: dict[str, Any], field: str
) -> None:
    folder = edit_config(checkpoint("llama"), **changes)
    with pytest.raises(UserError) as caught:
        read_source(folder)
    assert any(field in problem.field for problem in caught.value.problems), caught.value


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"num_experts": 4, "decoder_sparse_step": 2}, ["num_experts"]),
        ({"attention_bias": True, "linear_key_head_dim": 12}, ["attention_bias", "linear_key_head_dim"]),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, ["partial_rotary_factor"]),
        ({"linear_num_value_heads": 3}, ["linear_num_key_heads"]),
        ({"linear_num_value_heads": 512}, ["linear_num_value_heads", "linear_key_head_dim"]),
        ({"linear_value_head_dim": 40}, ["linear_value_head_dim"]),
        ({"linear_conv_kernel_dim": 1}, ["linear_conv_kernel_dim"]),
        ({"linear_num_key_heads": 0, "num_experts": "x"}, ["linear_num_key_heads", "num_experts"]),
        ({"layer_types": ["sliding_attention"] * 4}, ["layer_types"]),
        ({"layer_types": ["linear_attention"]}, ["config.json"]),
    ],
)
def test_a_hybrid_that_cannot_be_carried_says_why(
    checkpoint: Make, changes: dict[str, Any], fields: list[str]
) -> None:
    folder = edit_config(checkpoint("qwen3_next", **QWEN3_NEXT), **changes)
    with pytest.raises(UserError) as caught:
        read_source(folder)
    named = [problem.field.split(".")[-1] if "." in problem.field else problem.field
             for problem in caught.value.problems if not problem.field.startswith("model.")]  # fmt: skip
    assert named == [field.split(".")[-1] for field in fields], caught.value


def test_layers_with_experts_are_counted(checkpoint: Make) -> None:
    folder = edit_config(checkpoint("qwen3_next", **QWEN3_NEXT), num_experts=4, mlp_only_layers=[1, 3])
    with pytest.raises(UserError, match="2 of 4 layers have experts"):
        read_source(folder)


def test_a_window_that_limits_attention_makes_windowed_layers(checkpoint: Make) -> None:
    mistral = read_source(checkpoint("mistral", sliding_window=64))
    assert mistral.architecture.layout == "WWWW"
    assert mistral.architecture.mixers == {"W": {"window": 64}}
    qwen = read_source(checkpoint("qwen3", use_sliding_window=True, sliding_window=64, max_window_layers=2))
    assert qwen.architecture.layout == "FFWW"
    design = {"projections": [{"match": "up", "operator": "hdpl", "blocks": 4, "rank": 8}]}
    assert plan(qwen, design).after.layout == "FFWW", "a design without a layout keeps the model's"
    assert plan(qwen, {"layout": "F"}).after.layout == "FFFF"


def test_fused_projections_are_named_when_missing(checkpoint: Make) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        del state["model.layers.1.self_attn.qkv_proj.weight"]
        state["model.layers.2.mlp.gate_up_proj.weight"] = torch.zeros(3, 3)

    with pytest.raises(UserError) as caught:
        read_source(edit_weights(checkpoint("phi3"), change))
    assert {problem.field for problem in caught.value.problems} == {
        "model.layers.1.self_attn.qkv_proj.weight", "model.layers.2.mlp.gate_up_proj.weight",
    }  # fmt: skip


@pytest.mark.parametrize("value", [3, [1, 0, 2, 1], [1, 0, "x", 1], [1, 1, 1, 1, 0]])
def test_layers_without_rotary_embeddings_must_be_zeros_and_ones(checkpoint: Make, value: object) -> None:
    folder = edit_config(checkpoint("smollm3"), no_rope_layers=value)
    with pytest.raises(UserError, match="no_rope_layers"):
        read_source(folder)


@pytest.mark.parametrize("value", ["much", 0, -1.0])
def test_a_multiplier_must_be_a_positive_number(checkpoint: Make, value: object) -> None:
    folder = edit_config(checkpoint("granite"), residual_multiplier=value)
    with pytest.raises(UserError, match="residual_multiplier"):
        read_source(folder)


def test_every_missing_and_unexpected_tensor_is_listed(checkpoint: Make) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        for layer in (0, 1, 3):
            del state[f"model.layers.{layer}.mlp.up_proj.weight"]
        del state["model.norm.weight"]
        state["model.layers.2.self_attn.q_proj.bias"] = torch.zeros(32)
        state["model.layers.0.mlp.gate_proj.weight"] = torch.zeros(3, 3)
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)  # old checkpoints have it

    with pytest.raises(UserError) as caught:
        read_source(edit_weights(checkpoint("llama"), change))
    result = {problem.field: problem.rule for problem in caught.value.problems}
    assert result.keys() == {
        "model.layers.[0-1,3].mlp.up_proj.weight",
        "model.norm.weight",
        "model.layers.2.self_attn.q_proj.bias",
        "model.layers.0.mlp.gate_proj.weight",
    }
    assert "missing" in result["model.norm.weight"]
    assert "unexpected" in result["model.layers.2.self_attn.q_proj.bias"]


def test_problems_of_config_and_weights_come_together(checkpoint: Make) -> None:
    folder = edit_config(checkpoint("llama"), hidden_act="gelu")
    edit_weights(folder, lambda state: state.pop("lm_head.weight"))  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError) as caught:
        read_source(folder)
    assert {problem.field for problem in caught.value.problems} == {"hidden_act", "lm_head.weight"}


def test_pickles_are_not_opened(checkpoint: Make) -> None:
    folder = checkpoint("llama")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(UserError, match="only safetensors"):
        read_source(folder)


def test_broken_files_are_named(checkpoint: Make) -> None:
    folder = checkpoint("llama")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: is not a readable"):
        read_source(folder)
    path.write_bytes(b"\0" * 40)
    with pytest.raises(UserError, match="not a readable"):
        read_source(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="broken"):
        read_source(folder)


def test_a_shard_that_the_index_names_must_be_there(checkpoint: Make) -> None:
    from tests.surgery.apply.conftest import random_model

    folder = checkpoint("llama")
    (folder / "model.safetensors").unlink()
    random_model("llama").save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert read_source(folder).tensors
    shards[1].unlink()
    with pytest.raises(UserError, match=shards[1].name):
        read_source(folder)


def test_nan_weights_are_refused_and_nothing_is_left(checkpoint: Make, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
        state["model.norm.weight"][3] = float("inf")

    folder = edit_weights(checkpoint("llama"), change)
    for dry_run in (True, False):
        with pytest.raises(UserError) as caught:
            apply(folder, {}, tmp_path / "out", dry_run=dry_run)
        assert [(problem.field, problem.rule) for problem in caught.value.problems] == [
            ("model.layers.1.mlp.up_proj.weight", "holds 1 NaN or infinite numbers of 1536"),
            ("model.norm.weight", "holds 1 NaN or infinite numbers of 32"),
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["source-llama"]


def test_a_tied_head_that_differs_is_refused(checkpoint: Make) -> None:
    folder = edit_config(checkpoint("llama"), tie_word_embeddings=True)
    source = read_source(folder)
    with pytest.raises(UserError, match=r"lm_head\.weight: differs"):
        source.check_values()


def test_places_that_hold_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json: is missing"):
        read_source(tmp_path / "empty")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the Hub"):
        read_source("nobody/no-such-model")


def test_names_that_differ_in_the_layer_share_a_line() -> None:
    names = [f"model.layers.{layer}.x.weight" for layer in (0, 1, 2, 7)] + ["model.layers.4.y", "norm"]
    assert by_layers(names) == ["model.layers.[0-2,7].x.weight", "model.layers.4.y", "norm"]
