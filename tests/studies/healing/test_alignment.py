"""Alignment: every new part learns from the original's activations alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from studies.data import TokenData
from studies.healing.alignment import Alignment, Pair, output_distance, pairs_of
from studies.healing.heal import heal
from studies.healing.teacher import Teacher
from surgery.apply.execute import execute
from surgery.apply.plan import Plan, plan
from surgery.apply.source import SourceModel
from surgery.config.problems import UserError
from surgery.context import Context
from surgery.model import HybridLM
from surgery.ops.rotary import rotary_tables
from tests.studies.healing.conftest import HDPL, SETTINGS

ALIGNING = replace(SETTINGS, tokens=0, align_tokens=8192)


def test_pairs_are_the_parts_with_new_tensors(source: SourceModel, planned: Plan) -> None:
    assert pairs_of(planned) == (Pair(0, 0, "ffn"), Pair(1, 1, "mixer"), Pair(1, 1, "ffn"))
    folded = plan(source, {"backbone": {"num_layers": 1}, "loop": {"count": 2}, "projections": [HDPL]})
    assert pairs_of(folded) == (Pair(0, 0, "ffn"), Pair(0, 1, "ffn"))
    assert pairs_of(plan(source, {"layout": "F"})) == ()


@pytest.mark.parametrize("size", [4, 1])
def test_gradients_are_those_of_transformers_activations(
    source: SourceModel, teacher: Teacher, planned: Plan, rewritten: HybridLM, size: int
) -> None:
    """Inputs and outputs come from transformers' own layers; micro-batches of one are means of the same."""
    theirs = AutoModelForCausalLM.from_pretrained(source.folder, attn_implementation="eager")
    kept: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, module: Any, args: Any, options: Any, output: Any) -> None:
        x = args[0] if args else options["hidden_states"]
        kept[name] = x.detach(), (output[0] if isinstance(output, tuple) else output).detach()

    for index, layer in enumerate(theirs.model.layers):
        for name, module in (("mixer", layer.self_attn), ("ffn", layer.mlp)):
            module.register_forward_hook(partial(keep, f"{index}.{name}"), with_kwargs=True)
    tokens = torch.randint(320, (4, 20))
    model = rewritten.float().eval()  # without the noise of HDPL
    objective = Alignment(teacher.model, pairs_of(planned))
    reported, wanted = 0.0, []
    for rows in tokens.split(size):
        share = len(rows) / len(tokens)
        reported += objective(model, rows, rows, torch.tensor(1), share).terms["loss"].item()
    ours = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    assert {".".join(name.split(".")[:3]) for name in ours} == {
        "layers.0.ffn", "layers.1.mixer", "layers.1.ffn",
    }  # fmt: skip
    rotary = rotary_tables(model.architecture.backbone, torch.arange(20)[None])
    for rows in tokens.split(size):
        with torch.no_grad():
            theirs(rows)
        for index, part in ((0, "ffn"), (1, "mixer"), (1, "ffn")):
            x, y = kept[f"{index}.{part}"]
            mine = getattr(model.layers[index], part)(x, Context(rotary))
            energy = y.square().sum(-1)
            weights = 2 / (energy + energy.log().mean().exp())
            wanted.append(((mine - y).square().sum(-1) * weights).mean() * size / len(tokens))
    assert reported == pytest.approx(torch.stack(wanted).sum().item() / 3, rel=1e-4)
    names = list(ours)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(torch.stack(wanted).sum(), [parameters[name] for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_massive_activations_do_not_drown_the_other_tokens() -> None:
    """A token with a thousand times the norm counts about as much as any other."""
    theirs = torch.randn(2, 50, 8)
    ours = theirs + 0.1 * torch.randn(2, 50, 8)
    plain = output_distance(ours, theirs).item()
    assert plain == pytest.approx(0.01, rel=0.3)
    massive = theirs.clone()
    massive[0, 0] *= 1000
    exact_there, far_there = ours.clone(), ours.clone()
    exact_there[0, 0], far_there[0, 0] = massive[0, 0], 0
    assert output_distance(exact_there, massive).item() == pytest.approx(plain, rel=0.2)
    assert output_distance(far_there, massive).item() == pytest.approx(plain + 2 / 100, rel=0.2)
    constant = torch.ones(1, 3, 4)
    assert output_distance(torch.zeros(1, 3, 4), constant).item() == pytest.approx(1)
    assert output_distance(constant, torch.zeros(1, 3, 4)).isfinite()


def test_aligned_parts_come_closer_and_others_stay(
    teacher: Teacher, text: TokenData, planned: Plan, rewritten: HybridLM
) -> None:
    before = {name: tensor.detach().clone() for name, tensor in rewritten.named_parameters()}
    distances: list[float] = []
    from studies.healing.watch import Watch

    watch = Watch(on_step=lambda stage, now: distances.append(now.loss))
    result = heal(rewritten, planned, teacher, text, ALIGNING, watch=watch)
    assert distances[-1] < 0.85 * distances[0]
    assert result.after is None
    assert result.aligned is not None
    assert result.kept == "aligned"
    assert result.aligned.val_loss < result.before.val_loss
    moved = {name for name, tensor in rewritten.named_parameters() if not tensor.equal(before[name])}
    inside = ("layers.0.ffn.", "layers.1.mixer.", "layers.1.ffn.")
    assert moved == {name for name in before if name.startswith(inside)}


def test_healing_reads_on_where_the_alignment_stopped(
    teacher: Teacher, text: TokenData, planned: Plan, rewritten: HybridLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    read = TokenData.batch

    def batch(self: TokenData, indices: Any, seq_len: int, split: str = "train") -> Any:
        if split == "train":
            seen.append(tuple(indices))
        return read(self, indices, seq_len, split)  # type: ignore[arg-type]

    monkeypatch.setattr(TokenData, "batch", batch)
    heal(rewritten, planned, teacher, text, replace(SETTINGS, tokens=2048, align_tokens=2048))
    read_once = [index for indices in seen for index in indices]
    assert len(read_once) == 2 * 4 * 8
    assert len(set(read_once)) == len(read_once)


def test_a_folded_part_learns_from_all_its_layers(
    source: SourceModel, teacher: Teacher, text: TokenData
) -> None:
    folded = plan(source, {"backbone": {"num_layers": 1}, "loop": {"count": 2}, "projections": [HDPL]})
    model = execute(source, folded)[0]
    result = heal(model, folded, teacher, text, ALIGNING)
    assert result.aligned is not None
    assert result.aligned.val_loss < result.before.val_loss + 0.1


def test_nothing_to_align(source: SourceModel, teacher: Teacher, text: TokenData) -> None:
    dense = plan(source, {"layout": "F"})
    with pytest.raises(UserError, match="--align = 8192: has no effect"):
        heal(execute(source, dense)[0], dense, teacher, text, ALIGNING)
