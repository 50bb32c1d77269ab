"""Plans: what happens to every tensor, matches a rule, folding, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from surgery.apply.execute import execute
from surgery.apply.plan import Plan, plan
from surgery.apply.source import SourceModel, read_source
from surgery.architecture.costs import cost
from surgery.config.problems import UserError

HDPL = {"match": ["gate", "up"], "operator": "hdpl", "blocks": 4, "rank": 8}
DENSE = {"match": "all", "operator": "dense"}


@pytest.fixture
def source(checkpoint: Callable[..., Path]) -> SourceModel:
    return read_source(checkpoint("qwen2"))


def actions(drawn: Plan) -> dict[str, str]:
    return {tensor.name: tensor.action for tensor in drawn.tensors}


def test_every_tensor_has_an_action(source: SourceModel, tmp_path: Path) -> None:
    rules = [{**HDPL, "layers": "1-2"}, {**HDPL, "match": ["q"], "kl": "mean"}, DENSE]
    drawn = plan(source, {"projections": rules}, out=tmp_path / "deep" / "out")
    result = actions(drawn)
    assert result["layers.0.ffn.gate.weight"] == "kept"
    assert result["layers.1.ffn.gate.blocks"] == result["layers.1.ffn.gate.logvar.bias"] == "fitted"
    assert result["layers.3.mixer.q.decoder.weight"] == "fitted"
    assert result["layers.3.mixer.q.bias"] == "kept"  # the dense bias stays, the weight is replaced
    assert result["head.weight"] == result["embed.weight"] == "kept"
    assert [rule.matches for rule in drawn.rules] == [4, 4, 20]
    assert drawn.layers[1].operators["gate"] == "hdpl b4 r8"
    assert drawn.layers[1].params_before > drawn.layers[1].params_after
    assert {item.metric: item.after for item in drawn.costs}["params"] == cost(drawn.after, "params")
    assert any(text.startswith("q: hdpl b4 r8") and "more parameters" in text for text in drawn.warnings)
    assert drawn.unused == ()
    assert drawn.disk_free is not None
    assert drawn.disk_free > drawn.disk_needed > 4 * cost(drawn.after, "params")
    data = json.loads(json.dumps(drawn.to_dict()))
    assert data["actions"]["fitted"] == drawn.count("fitted") == 8 * 6
    model, fits = execute(source, drawn)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
        tensor.name: tensor.shape for tensor in drawn.tensors
    }
    assert [(fit.layer, fit.projection) for fit in fits] == list(drawn.fitted)


def test_a_shorter_layout_is_tiled_and_the_backbone_is_the_models(source: SourceModel) -> None:
    drawn = plan(source, {"layout": "FF"})
    assert drawn.after.layout == "FFFF"
    assert drawn.after == source.architecture
    same = plan(source, {"backbone": source.backbone.to_dict(), "layout": "F"})
    assert same.after == drawn.after


@pytest.mark.parametrize("sizes", ["dim: 64, rope_theta: 5.0", "num_layers: 7", "dim: 64, num_layers: 7"])
def test_a_pick_for_another_size_says_how_to_make_it_portable(
    source: SourceModel, tmp_path: Path, sizes: str
) -> None:
    path = tmp_path / "pick.yaml"
    path.write_text(f"# #12 dense of study demo: d64 FF\nbackbone: {{{sizes}}}\nlayout: F\n")
    with pytest.raises(UserError) as caught:
        plan(source, path)
    assert str(caught.value).count("nas pick demo --trial 12 --portable -o design.yaml") == 1


def test_a_backbone_that_differs_is_told_field_by_field(source: SourceModel, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("backbone:\n  dim: 64\n  rope_theta: 5.0\n  num_layers: 4\n  vocab_size: 61\n")
    with pytest.raises(UserError) as caught:
        plan(source, path)
    result = {problem.field: problem.line for problem in caught.value.problems}
    assert result == {"backbone.dim": 2, "backbone.rope_theta": 3}


def test_errors_in_the_file_come_all_at_once(source: SourceModel, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "layout: XF\nprojections:\n- {match: all, operator: hdpl, blocks: 5, rank: 4}\nloops: 2\n"
    )
    with pytest.raises(UserError) as caught:
        plan(source, path)
    assert {problem.line for problem in caught.value.problems} >= {1, 4}
    path.write_text("projections:\n- {match: all, operator: hdpl, blocks: 5, rank: 4}\n")
    with pytest.raises(UserError, match="must divide"):
        plan(source, path)


def test_problems_of_all_kinds_come_together(source: SourceModel, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "backbone: {dim: 64, rope_theta: 5.0}\n"
        "layout: FX\n"
        "mixers: {G: {heads: many}}\n"
        "projections:\n"
        "- {match: [gate], operator: hdpl, blocks: 8}\n"
        "- {match: [up], operator: hdpl, blocks: 5, rank: 4, layers: 2-9}\n"
        "- {match: [down], operator: hdpl, blocks: 7, rank: 4}\n"
        "loop: {count: 0}\n"
    )
    with pytest.raises(UserError) as caught:
        plan(source, path)
    assert {(problem.field, problem.line) for problem in caught.value.problems} == {
        ("backbone.dim", 1), ("backbone.rope_theta", 1), ("layout", 2), ("mixers.G.heads", 3),
        ("projections[0].rank", 5), ("projections[1].layers", 6), ("projections[1].blocks", 6),
        ("projections[2].blocks", 7), ("loop.count", 8),
    }  # fmt: skip


def test_a_rule_that_changes_nothing_is_an_error(source: SourceModel) -> None:
    with pytest.raises(UserError, match="matches no projection"):
        plan(source, {"projections": [DENSE, HDPL]})


def test_looping_all_layers_shares_them_as_they_are(source: SourceModel) -> None:
    drawn = plan(source, {"loop": {"count": 2}})
    assert drawn.fold is None
    assert actions(drawn).pop("loop_gate") == "new"
    assert drawn.count("averaged") == 0
    assert any("healing" in text for text in drawn.warnings)
    model, _ = execute(source, drawn)
    assert model.loop_gate is not None
    assert not model.loop_gate.any()


@pytest.mark.parametrize("fold", ["average", "first"])
def test_folding_layers_onto_each_other(source: SourceModel, fold: str) -> None:
    wanted = {"backbone": {"num_layers": 2}, "loop": {"count": 2}, "projections": [HDPL]}
    drawn = plan(source, wanted, fold=fold)
    assert drawn.fold == fold
    assert [layer.sources for layer in drawn.layers] == [(0, 2), (1, 3)]
    assert drawn.layers[0].params_before == 2 * plan(source, {}).layers[0].params_before
    model, _ = execute(source, drawn)
    parts = [source.tensor(f"model.layers.{index}.mlp.down_proj.weight") for index in (1, 3)]
    expected = parts[0] if fold == "first" else (parts[0] + parts[1]) / 2
    torch.testing.assert_close(model.state_dict()["layers.1.ffn.down.weight"], expected)
    assert bool(drawn.unused) == (fold == "first")


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        ({"backbone": {"num_layers": 3}}, "must be 4 "),
        ({"backbone": {"num_layers": 3}, "loop": {"count": 2}}, "must be 2 or 4 "),
        ({"backbone": {"num_layers": 2}, "loop": {"count": 3}}, "must be 4 "),
    ],
)
def test_a_depth_that_does_not_fit_names_those_that_do(
    source: SourceModel, wanted: dict[str, Any], allowed: str
) -> None:
    with pytest.raises(UserError, match=allowed):
        plan(source, wanted)


def test_dead_knobs_are_named(source: SourceModel) -> None:
    drawn = plan(source, {"projections": [{**HDPL, "rank": 64}]})
    assert any("kl_weight has no effect" in text for text in drawn.warnings)


def test_an_unknown_fold_is_refused(source: SourceModel) -> None:
    with pytest.raises(UserError, match="fold"):
        plan(source, {}, fold="median")


def test_a_design_for_another_size_is_scaled(source: SourceModel, tmp_path: Path) -> None:
    """The model has width 32 and a context of 256."""
    path = tmp_path / "design.yaml"
    path.write_text(
        "designed_for: {dim: 16, context: 32}\nlayout: WKSF\n"
        "mixers: {W: {window: 4, sinks: 2}, K: {window: 9}}\n"
        "projections:\n- {match: [gate, up], operator: hdpl, blocks: 4, rank: 6, kl: mean}\n"
        "loop: {count: 2, windows: [3, full], delta_rank: 3}\n"
    )
    drawn = plan(source, path)
    assert drawn.scaled == (
        "gate up: hdpl rank 6 -> 16",  # 12 is rounded to a multiple of 8
        "W window 4 -> 32",
        "K window 9 -> 72",
        "S top_k 64 -> 512",
        "loop: windows [3, 'full'] -> [24, 'full']",
        "loop delta_rank 3 -> 6",
    )
    layers = drawn.after.layers
    assert [layer.mixer_options.get("window") for layer in layers] == [32, 72, None, None]
    assert layers[0].mixer_options["sinks"] == 2
    assert layers[2].mixer_options["top_k"] == 512
    assert layers[0].projections["up"].options["rank"] == 16
    assert drawn.after.loop_windows == (24, None)
    assert drawn.after.delta_rank == 6
    assert plan(source, {"layout": "W", "mixers": {"W": {"window": 4}}}).scaled == ()
    same = plan(source, {"designed_for": {"dim": 32, "context": 256}, "layout": "W"})
    assert same.scaled == ()
    assert same.after == plan(source, {"layout": "W"}).after


def test_sizes_that_a_design_is_for_are_checked(source: SourceModel) -> None:
    with pytest.raises(UserError) as caught:
        plan(source, {"designed_for": {"dim": 0, "depth": 3}})
    assert {problem.field for problem in caught.value.problems} == {
        "designed_for.dim", "designed_for.context", "designed_for.depth",
    }  # fmt: skip


def test_a_design_keeps_the_sizes_it_was_tried_on(source: SourceModel) -> None:
    design = plan(source, {"layout": "WF", "mixers": {"W": {"window": 16}}}).after
    again = plan(source, yaml.safe_load(design.to_yaml(tried_on=64)))
    assert again.scaled == ("W window 16 -> 64",)
