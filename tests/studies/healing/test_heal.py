"""Healing: what it minimises, which weights it changes and which it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from studies.data import TokenData
from studies.healing.checks import check_plan
from studies.healing.distillation import Distillation
from studies.healing.heal import heal
from studies.healing.parts import new_tensors
from studies.healing.settings import HealSettings, check_heal
from studies.healing.teacher import Teacher, original
from studies.healing.watch import Watch
from surgery.apply.plan import Plan, plan
from surgery.apply.source import SourceModel
from surgery.config.problems import UserError
from surgery.model import HybridLM
from tests.studies.healing.conftest import SETTINGS


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_objective_is_that_of_whole_logits(
    source: SourceModel, teacher: Teacher, rewritten: HybridLM, share: float
) -> None:
    """The teacher is transformers' own model, and its logits are compared whole."""
    theirs = AutoModelForCausalLM.from_pretrained(source.folder)
    rows = torch.randint(320, (3, 20))
    model = rewritten.float().eval()  # without the noise of HDPL
    targets = rows[:, 1:].clone()
    targets[0, :5] = -100
    with torch.no_grad():
        log_p = F.log_softmax(theirs(rows[:, :-1]).logits, -1)
    log_q = F.log_softmax(model.head(model(rows[:, :-1])), -1)
    counts = targets != -100
    cross_entropy = F.nll_loss(log_q[counts], targets[counts])
    divergence = F.kl_div(log_q[counts], log_p[counts], log_target=True, reduction="sum") / counts.sum()
    wanted = (1 - share) * cross_entropy + share * divergence
    objective = Distillation(teacher.model, share)
    losses = objective(model, rows[:, :-1], targets, counts.sum(), 1.0)
    torch.testing.assert_close(losses.minimised, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.terms["loss"], cross_entropy.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.terms["kl"], divergence.detach(), rtol=1e-4, atol=1e-5)
    parameter = model.layers[0].mixer.q.weight
    ours = torch.autograd.grad(losses.minimised, parameter, retain_graph=True)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(wanted, parameter)[0], rtol=1e-3, atol=1e-6)


def test_the_divergence_is_that_of_whole_logits(
    source: SourceModel, teacher: Teacher, text: TokenData, rewritten: HybridLM
) -> None:
    settings = replace(SETTINGS, eval_tokens=64 * 20)
    theirs = AutoModelForCausalLM.from_pretrained(source.folder)
    model = rewritten.float().eval()
    rows = torch.from_numpy(text.batch(list(range(20)), 64, "val"))[:, :-1]
    with torch.no_grad():
        log_p, log_q = (
            F.log_softmax(logits, -1) for logits in (theirs(rows).logits, model.head(model(rows)))
        )
        wanted = F.kl_div(log_q, log_p, log_target=True, reduction="sum") / rows.numel()
    assert teacher.divergence(model, text, settings) == pytest.approx(wanted.item(), rel=1e-3)
    assert teacher.divergence(original(source), text, settings) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", ["ce", "kl", "both"])
def test_healing_lowers_the_loss_of_a_distorted_model(
    teacher: Teacher, text: TokenData, rewritten: HybridLM, planned: Plan, loss: str
) -> None:
    result = heal(rewritten, planned, teacher, text, replace(SETTINGS, loss=loss))
    assert result.after is not None
    assert result.kept == "healed"
    assert result.kl.keys() == {"rewritten", "healed"}
    if loss != "kl":  # a random teacher has nothing to teach about the text
        assert result.after.val_loss < result.before.val_loss - 0.05
    assert all(tensor.dtype == torch.float32 for tensor in rewritten.parameters())
    assert result.after.val_loss == pytest.approx(min(result.after.losses), abs=1e-6)


def test_the_teacher_stays_as_it_was(
    source: SourceModel, teacher: Teacher, text: TokenData, rewritten: HybridLM, planned: Plan
) -> None:
    heal(rewritten, planned, teacher, text, SETTINGS)
    wanted = original(source).state_dict()
    for name, tensor in teacher.model.state_dict().items():
        assert torch.equal(tensor, wanted[name].float())


def test_a_worse_result_is_refused(
    teacher: Teacher, text: TokenData, rewritten: HybridLM, planned: Plan
) -> None:
    rewritten.to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in rewritten.state_dict().items()}
    refused: list[str] = []
    settings = replace(SETTINGS, lr=0.1, lr_new=0.1, tokens=512, eval_every=1)
    result = heal(rewritten, planned, teacher, text, settings, watch=Watch(on_note=refused.append))
    assert (result.kept, result.step) == ("rewritten", 0)
    assert f"below {result.before.val_loss:.4f}" in refused[0]
    assert result.after is not None
    assert result.after.val_loss > result.before.val_loss
    assert "No measured step was better" in result.card()
    for name, tensor in rewritten.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_rates_follow_what_a_tensor_comes_from() -> None:
    settings = replace(SETTINGS, lr=1e-4)
    rates = {action: settings.rate(action) for action in ("kept", "fitted", "pruned", "transplanted", "new")}
    assert rates == {"kept": 1e-4, "fitted": 1e-4, "pruned": 1e-4, "transplanted": 4e-4, "new": 4e-4}
    settings = replace(settings, lr_new=1e-3)
    rates = {action: settings.rate(action) for action in ("shared", "fitted", "transplanted", "silent")}
    assert rates == {"shared": 1e-4, "fitted": 1e-3, "transplanted": 1e-3, "silent": 1e-3}


def test_new_and_carried_parts_have_their_own_rates(
    teacher: Teacher, text: TokenData, rewritten: HybridLM, planned: Plan
) -> None:
    """The first step of AdamW moves every weight by its learning rate."""
    new = new_tensors(planned)
    assert {name.split(".")[3] for name in new if ".ffn." in name} == {"gate", "up"}
    before = {name: tensor.detach().clone() for name, tensor in rewritten.named_parameters()}
    settings = replace(SETTINGS, tokens=512, lr=1e-4, lr_new=1e-3, freeze=("layers.1.*", "embed.*"))
    heal(rewritten, planned, teacher, text, settings)
    moved = {
        name: (tensor - before[name]).abs().max().item() for name, tensor in rewritten.named_parameters()
    }
    assert moved["layers.0.mixer.q.weight"] == pytest.approx(1e-4, rel=1e-2)
    assert moved["layers.0.ffn.gate.blocks"] == pytest.approx(1e-3, rel=1e-2)
    still = {name for name, by in moved.items() if by == 0}
    assert still == {name for name in moved if name.startswith(("layers.1.", "embed."))}


def test_settings_that_make_no_sense_for_the_surgery(source: SourceModel, planned: Plan) -> None:
    """All at once, before anything is trained."""
    dense = plan(source, {"layout": "F", "loop": {"count": 2}})
    with pytest.raises(UserError) as error:
        check_plan(dense, replace(SETTINGS, freeze=("layer.*", "norm.*"), align_tokens=9, hidden_weight=1.0))
    assert [(problem.field, problem.value) for problem in error.value.problems] == [
        ("--freeze", "layer.*"), ("--align", 9), ("--hidden-weight", 1.0),
    ]  # fmt: skip
    with pytest.raises(UserError, match="leaves nothing to train"):
        check_plan(planned, replace(SETTINGS, freeze=("*",)))


def test_all_problems_of_the_settings_come_at_once() -> None:
    with pytest.raises(UserError) as error:
        check_heal(HealSettings(tokens=100, loss="boht", batch_tokens=700))
    assert [problem.field for problem in error.value.problems] == ["--heal-loss", "--batch-tokens", "--heal"]
    assert 'did you mean "both"' in str(error.value)


def test_small_budgets_have_small_steps() -> None:
    assert HealSettings(tokens=200_000).step_tokens == 4096
    assert HealSettings(tokens=4_700_000).step_tokens == 16_384
    assert HealSettings(tokens=4_700_000, seq_len=3000).step_tokens == 15_000
