"""Options of healing: hidden states, low-rank adapters, recomputed activations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from studies.data import TokenData
from studies.healing import adapters
from studies.healing.adapters import add_adapters, merge_adapters
from studies.healing.distillation import Distillation
from studies.healing.heal import heal
from studies.healing.parts import new_tensors
from studies.healing.saved import Saved
from studies.healing.settings import check_heal
from studies.healing.teacher import Teacher
from surgery.apply.execute import execute
from surgery.apply.plan import Plan, plan
from surgery.apply.source import SourceModel
from surgery.config.problems import UserError
from surgery.model import HybridLM
from tests.studies.healing.conftest import HDPL, SETTINGS

SHORT = replace(SETTINGS, tokens=2048)


def test_hidden_states_are_compared_with_those_of_transformers(
    source: SourceModel, teacher: Teacher, rewritten: HybridLM
) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(source.folder)
    tokens = torch.randint(320, (3, 20))
    model = rewritten.float().eval()
    ours: list[torch.Tensor] = []
    hidden = model(tokens, states=ours)
    with torch.no_grad():
        wanted = theirs(tokens, output_hidden_states=True).hidden_states
    assert len(wanted) == 3  # embedding, one layer's output, the last one's normed
    similar = [
        F.cosine_similarity(a, b, dim=-1).mean() for a, b in zip([ours[1], hidden], wanted[1:], strict=True)
    ]
    distance = 1 - torch.stack(similar).mean()
    plain = Distillation(teacher.model, 0.5)(model, tokens, tokens, torch.tensor(60), 1.0)
    losses = Distillation(teacher.model, 0.5, 3.0)(model, tokens, tokens, torch.tensor(60), 1.0)
    torch.testing.assert_close(losses.terms["hidden"], distance.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses.minimised, plain.minimised + 3 * distance, rtol=1e-4, atol=1e-5)
    name = model.layers[0].mixer.q.weight
    ours_gradient = torch.autograd.grad(losses.minimised, name)[0]
    wanted_gradient = torch.autograd.grad(plain.minimised + 3 * distance, name)[0]
    torch.testing.assert_close(ours_gradient, wanted_gradient, rtol=1e-3, atol=1e-6)


def test_hidden_states_of_other_depths_are_refused(
    source: SourceModel, teacher: Teacher, text: TokenData
) -> None:
    looped = plan(source, {"loop": {"count": 2}, "projections": [HDPL]})
    model = execute(source, looped)[0]
    with pytest.raises(UserError, match="the original runs 2 layers and the result 4"):
        heal(model, looped, teacher, text, replace(SHORT, hidden_weight=1.0))
    folded = plan(source, {"backbone": {"num_layers": 1}, "loop": {"count": 2}, "projections": [HDPL]})
    heal(execute(source, folded)[0], folded, teacher, text, replace(SHORT, tokens=512, hidden_weight=1.0))


def test_recomputed_activations_change_nothing(
    source: SourceModel, teacher: Teacher, text: TokenData, planned: Plan
) -> None:
    both = [execute(source, planned)[0] for _ in range(2)]
    for model, recomputes in zip(both, (False, True), strict=True):
        heal(model, planned, teacher, text, replace(SHORT, checkpoint_activations=recomputes))
        assert all(block.checkpoint is None for block in model.layers)
    for name, tensor in both[0].state_dict().items():
        torch.testing.assert_close(both[1].state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_merged_adapters_are_the_sum_of_both_maps(rewritten: HybridLM, planned: Plan) -> None:
    model = rewritten.float().eval()
    names = set(model.state_dict())
    tokens = torch.randint(320, (2, 9))
    before = model(tokens)
    add_adapters(model, new_tensors(planned), rank=2, seed=0)
    wrapped = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    carried = {"layers.0.mixer.q", "layers.0.mixer.k", "layers.0.mixer.v", "layers.0.mixer.o"}
    assert wrapped == carried | {"layers.0.ffn.down", "layers.1.ffn.down"}
    assert torch.equal(model(tokens), before)  # the second factor starts at zero
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.1)
    adapted = model(tokens)
    assert (adapted - before).abs().max() > 1e-3
    merge_adapters(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(tokens), adapted, rtol=1e-4, atol=1e-5)


def test_adapters_heal_and_leave_norms_and_embeddings(
    source: SourceModel, teacher: Teacher, text: TokenData, planned: Plan, tmp_path: Path
) -> None:
    model = execute(source, planned)[0]
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    settings = replace(SETTINGS, lora=2, align_tokens=2048, freeze=("layers.1.ffn.down.weight",))
    result = heal(model, planned, teacher, text, settings)
    assert result.kept == "healed"
    assert result.after is not None
    assert result.after.val_loss < result.before.val_loss - 0.02
    assert result.after.val_loss == pytest.approx(min(result.after.losses), abs=1e-4)
    moved = {name for name, tensor in model.named_parameters() if not tensor.equal(before[name])}
    assert set(before) == {name for name, _ in model.named_parameters()}
    still = set(before) - moved
    assert "layers.1.ffn.down.weight" in still
    assert {"embed.weight", "head.weight", "norm.weight", "layers.0.mixer_norm.weight"} <= still
    assert {"layers.0.mixer.q.weight", "layers.0.ffn.gate.blocks"} <= moved
    change = model.layers[0].mixer.q.weight - before["layers.0.mixer.q.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
    again = execute(source, planned)[0]
    with Saved(tmp_path / "state", {}) as saved:  # its checkpoints hold the adapters
        heal(again, planned, teacher, text, settings, saved=saved)
        resumed = execute(source, planned)[0]
        heal(resumed, planned, teacher, text, settings, saved=saved)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_adapters_need_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--lora = 4: needs PEFT"):
        check_heal(replace(SETTINGS, lora=4))
