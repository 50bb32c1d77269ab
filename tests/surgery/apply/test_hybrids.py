"""Surgery on checkpoints of attention and Gated DeltaNet layers: Qwen3.5, Qwen3-Next and OLMo-Hybrid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgery.apply.execute import execute
from surgery.apply.pipeline import apply
from surgery.apply.plan import plan
from surgery.apply.source import SourceModel, read_source
from surgery.config.problems import UserError
from tests.surgery.apply.test_carry import DELTA, QWEN3_5, QWEN3_NEXT
from tests.surgery.apply.test_transplants import TEXT, actions

Make = Callable[..., Path]
OPTIONS: dict[str, dict[str, Any]] = {
    "qwen3_5_text": QWEN3_5,
    "qwen3_next": QWEN3_NEXT,
    "olmo_hybrid": DELTA,
}
SIZES = {"key_ratio": 0.5, "expand_v": 2.0, "heads": 2, "conv_size": 4}


@pytest.fixture(params=OPTIONS)
def source(request: pytest.FixtureRequest, checkpoint: Make) -> SourceModel:
    return read_source(checkpoint(request.param, **OPTIONS[request.param]))


def test_layers_and_options_are_read(checkpoint: Make) -> None:
    for family in ("qwen3_5_text", "qwen3_next"):
        qwen = read_source(checkpoint(family, **OPTIONS[family])).architecture
        assert qwen.layout == "GGGF"
        assert qwen.mixers == {"F": {"gate": True}, "G": SIZES}
    olmo = read_source(checkpoint("olmo_hybrid", **DELTA)).architecture
    assert olmo.mixers == {"G": {**SIZES, "negative_eigenvalues": True, "norm_eps": 1e-5}}
    assert [layer.post_norm for layer in olmo.layers] == [False, False, False, True]


def test_a_layer_that_stays_gated_delta_net_is_kept(source: SourceModel) -> None:
    drawn = plan(source, {"layout": "GGGW", "mixers": {"W": {"window": 8}}})
    for layer in range(3):
        assert set(actions(drawn, layer).values()) == {"kept"}
    window = actions(drawn, 3)
    assert {window[f"{name}.weight"] for name in "qkv"} == {"kept"}
    spelled = {"layout": "GGGF", "mixers": {"G": {**source.architecture.mixers["G"], "heads": 2}}}
    assert set(actions(plan(source, spelled), 0).values()) == {"kept"}


def test_other_options_of_gated_delta_net_start_silent(source: SourceModel) -> None:
    drawn = plan(source, {"layout": "GGGF", "mixers": {"G": {**SIZES, "heads": 4}}})
    first = actions(drawn, 0)
    assert first.pop("o.weight") == "silent"
    assert set(first.values()) == {"new"}
    assert set(actions(drawn, 3).values()) == {"kept"}
    model, _ = execute(source, drawn)
    assert model(TEXT[0][None]).isfinite().all()


def test_attention_takes_the_place_of_gated_delta_net_and_the_other_way_round(source: SourceModel) -> None:
    drawn = plan(source, {"layout": "FGGG"})
    assert drawn.transplanted == (3,)
    assert actions(drawn, 0)["o.weight"] == "silent"
    model, (fit,) = execute(source, drawn, calibration=TEXT)
    assert fit.output_error is not None
    assert fit.output_error < 1
    assert model(TEXT[0][None]).isfinite().all()


def test_layers_of_one_kind_are_folded(checkpoint: Make) -> None:
    types = ["linear_attention", "full_attention"] * 2
    source = read_source(checkpoint("olmo_hybrid", **DELTA, layer_types=types))
    drawn = plan(source, {"layout": "GF", "backbone": {"num_layers": 2}, "loop": {"count": 2}})
    assert {tensor.action for tensor in drawn.tensors if tensor.layer is not None} == {"averaged"}
    assert [layer.post_norm for layer in drawn.after.layers] == [False, True]
    model, _ = execute(source, drawn)
    ours = model.state_dict()["layers.0.mixer.q.weight"]
    both = [source.tensor(f"model.layers.{layer}.self_attn.q_proj.weight") for layer in (0, 2)]
    torch.testing.assert_close(ours, (both[0] + both[1]) / 2)


def test_norms_before_and_after_a_part_are_not_averaged(checkpoint: Make) -> None:
    source = read_source(checkpoint("olmo_hybrid", **DELTA))  # GGGF
    drawn = plan(source, {"layout": "GF", "backbone": {"num_layers": 2}, "loop": {"count": 2}})
    planned = {tensor.name: tensor.action for tensor in drawn.tensors}
    assert planned["layers.0.mixer_norm.weight"] == "averaged"
    assert planned["layers.1.mixer_norm.weight"] == planned["layers.1.ffn_norm.weight"] == "new"
    assert planned["layers.1.ffn.up.weight"] == "averaged"
    model, _ = execute(source, drawn)
    assert model(TEXT[0][None]).isfinite().all()


def test_operators_are_fitted_in_hybrids(source: SourceModel) -> None:
    rules = [{"match": ["q", "up"], "operator": "hdpl", "blocks": 4, "rank": 8}]
    drawn = plan(source, {"projections": rules})
    assert drawn.after.layout == "GGGF"
    assert len(drawn.fitted) == 8
    model, fits = execute(source, drawn, calibration=TEXT)
    assert all(fit.output_error is not None and fit.output_error < 1 for fit in fits)
    assert model(TEXT[0][None]).isfinite().all()


@pytest.mark.parametrize(
    "family", ["qwen3_5_text", "olmo_hybrid", pytest.param("qwen3_next", marks=pytest.mark.slow)]
)
def test_a_result_is_written_as_the_class_of_the_checkpoint(
    checkpoint: Make, tmp_path: Path, family: str
) -> None:
    source = read_source(checkpoint(family, **OPTIONS[family]))
    result = apply(source.folder, {}, tmp_path / "out")
    assert result.plan.export.model_type == source.family
    again = read_source(tmp_path / "out")
    assert again.notes == source.notes
    assert again.architecture == source.architecture
    for name in source.tensors:
        torch.testing.assert_close(again.tensor(name), source.tensor(name), atol=2e-7, rtol=0)


def test_a_convolution_is_read_in_one_or_in_three(checkpoint: Make) -> None:
    """transformers joins them; a part that is missing is named."""
    folder = checkpoint("olmo_hybrid", **DELTA)
    path, prefix = folder / "model.safetensors", "model.layers.1.linear_attn"
    name = "model.layers.1.self_attn.conv"
    before = read_source(folder).tensor(name)
    state = load_file(path)
    split = [state.pop(f"{prefix}.{part}_conv1d.weight") for part in "qkv"]
    assert torch.equal(before, torch.cat(split))
    save_file({**state, f"{prefix}.conv1d.weight": torch.cat(split)}, path, metadata={"format": "pt"})
    assert torch.equal(read_source(folder).tensor(name), before)
    save_file({**state, f"{prefix}.q_conv1d.weight": split[0]}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"linear_attn\.conv1d\.weight: is missing"):
        read_source(folder)
