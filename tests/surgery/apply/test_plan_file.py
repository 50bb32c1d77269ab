"""A plan is written to a file, edited, and carried out as edited; impossible edits are refused together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from surgery.apply.execute import execute
from surgery.apply.plan import plan
from surgery.apply.source import SourceModel, read_source
from surgery.config.problems import UserError

DESIGN: dict[str, Any] = {
    "layout": "KGF",
    "mixers": {"G": {"key_ratio": 1.0, "expand_v": 1.0}},
    "projections": [{"match": ["up"], "operator": "hdpl", "blocks": 4, "rank": 8}],
}
TEXT = [torch.randint(61, (64,), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


@pytest.fixture
def source(checkpoint: Callable[..., Path]) -> SourceModel:
    return read_source(checkpoint("llama"))


@pytest.fixture
def edit(source: SourceModel, tmp_path: Path) -> Callable[..., Path]:
    """Writes the plan of DESIGN with these actions: `edit({"layers.0.mixer.o": "kept"})`."""

    def make(changes: dict[str, Any], **fields: Any) -> Path:
        data = yaml.safe_load(plan(source, DESIGN).to_yaml())
        data["tensors"] |= changes
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(data | fields, sort_keys=False))
        return path

    return make


def test_a_plan_given_back_is_the_same_plan(source: SourceModel, edit: Callable[..., Path]) -> None:
    assert plan(source, edit({})) == plan(source, DESIGN)
    actions = yaml.safe_load(edit({}).read_text())["tensors"]
    assert actions["embed"] == actions["layers.0.mixer_norm"] == actions["layers.2.mixer.q"] == "kept"
    assert actions["layers.0.ffn.up"] == "fitted"
    assert actions["layers.0.mixer.o"] == actions["layers.1.mixer.A_log"] == "transplanted"


def test_edited_actions_are_carried_out(source: SourceModel, edit: Callable[..., Path]) -> None:
    changes = {
        "layers.0.mixer.o": "kept", "layers.0.mixer.log_sigma": "new", "layers.1.mixer.o": "silent",
        "layers.2.ffn.down": "silent", "layers.2.ffn.gate": "new", "layers.3.ffn.up": "new",
    }  # fmt: skip
    drawn = plan(source, edit(changes))
    model, fits = execute(source, drawn, calibration=TEXT)
    state = model.state_dict()
    assert torch.equal(
        state["layers.0.mixer.o.weight"], source.tensor("model.layers.0.self_attn.o_proj.weight")
    )
    assert not state["layers.1.mixer.o.weight"].any()
    assert torch.equal(
        state["layers.1.mixer.q.weight"], source.tensor("model.layers.1.self_attn.q_proj.weight")
    )
    assert not state["layers.2.ffn.down.weight"].any()
    gate = source.tensor("model.layers.2.mlp.gate_proj.weight")
    assert not torch.equal(state["layers.2.ffn.gate.weight"], gate)
    errors = {(fit.layer, fit.projection): fit.output_error for fit in fits}
    # of the four layers K, G, F and K
    assert set(errors) == {(1, "mixer"), (3, "mixer"), (0, "up"), (1, "up"), (2, "up")}
    assert errors[1, "mixer"] == 1
    assert {name for name, action in changes.items() if action == "kept"} == {"layers.0.mixer.o"}


def test_impossible_edits_are_refused_together(source: SourceModel, edit: Callable[..., Path]) -> None:
    changes = {
        "layers.1.mixer.q": "kept", "layers.0.ffn.gate": "silent", "layers.0.mixer.O": "new",
        "layers.1.ffn.up": "kept", "embed": "lost",
    }  # fmt: skip
    path = edit(changes)
    with pytest.raises(UserError) as caught:
        plan(source, path)
    problems = {problem.field: problem for problem in caught.value.problems}
    assert set(problems) == {
        "tensors.layers.1.mixer", "tensors.layers.0.ffn.gate", "tensors.layers.0.mixer.O",
        "tensors.layers.1.ffn.up", "tensors.embed",
    }  # fmt: skip
    assert problems["tensors.layers.0.ffn.gate"].rule == "must be kept or new"
    assert problems["tensors.layers.1.ffn.up"].rule == "must be fitted or new"
    assert "layers.0.mixer.o" in problems["tensors.layers.0.mixer.O"].hint
    lines = path.read_text().splitlines()
    line = problems["tensors.embed"].line
    assert line is not None
    assert lines[line - 1].strip() == "embed: lost"


def test_a_plan_in_another_form_is_refused(source: SourceModel, edit: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as caught:
        plan(source, edit({}, tensors=["kept"], models=3))
    assert {problem.field for problem in caught.value.problems} == {"tensors", "models"}
    with pytest.raises(UserError, match="fold"):
        plan(source, edit({}, fold="median"))


def test_a_fold_is_part_of_the_plan(source: SourceModel, tmp_path: Path) -> None:
    design = {"backbone": {"num_layers": 2}, "loop": {"count": 2}}
    path = tmp_path / "plan.yaml"
    path.write_text(plan(source, design, fold="first").to_yaml())
    assert plan(source, path) == plan(source, design, fold="first")
    path.write_text(plan(source, design).to_yaml())
    assert plan(source, path).count("averaged") > 0
