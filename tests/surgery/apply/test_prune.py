"""Narrower feed-forward parts keep the hidden channels that count most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from surgery.apply.execute import execute
from surgery.apply.plan import Plan, plan
from surgery.apply.prune import channel_importance, most_important, output_error, selected
from surgery.apply.source import read_source
from surgery.config.problems import UserError
from surgery.hf.lazy import LazyModel
from tests.surgery.apply.conftest import random_model

Make = Callable[..., Path]
TEXT = [torch.randint(61, (48,), generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
GATE, UP, DOWN = (f"mlp.{name}_proj.weight" for name in ("gate", "up", "down"))


def random_part(biases: bool = True) -> dict[str, Tensor]:
    part = {"gate.weight": torch.randn(20, 6), "up.weight": torch.randn(20, 6),
            "down.weight": torch.randn(6, 20)}  # fmt: skip
    return part | ({"gate.bias": torch.randn(20), "up.bias": torch.randn(20)} if biases else {})


@pytest.mark.parametrize("biases", [False, True])
def test_importance_is_the_energy_that_a_channel_adds(biases: bool) -> None:
    """Channel by channel: the output of the part with that channel alone."""
    part, text = random_part(biases), [torch.randn(9, 6), torch.randn(4, 6)]
    x = torch.cat(text)
    for channel, importance in enumerate(channel_importance(part, text)):
        one = selected(part, torch.tensor([channel]))
        gate, up = (F.linear(x, one[f"{name}.weight"], one.get(f"{name}.bias")) for name in ("gate", "up"))
        alone = (F.silu(gate) * up) @ one["down.weight"].T
        torch.testing.assert_close(importance, alone.square().sum(-1).mean())


def test_without_a_text_norms_of_weights_count() -> None:
    part = random_part(biases=False)
    for name, factor in (("gate.weight", 9.0), ("up.weight", 8.0)):
        part[name][5] *= factor
    part["down.weight"][:, 7] *= 100
    part["up.weight"][3] = 0
    ranked = channel_importance(part, []).argsort(descending=True)
    assert set(ranked[:2].tolist()) == {5, 7}
    assert ranked[-1] == 3
    part["gate.weight"] = torch.ones(20, 6)
    part["up.weight"], part["down.weight"] = part["gate.weight"], part["gate.weight"].T
    assert most_important(channel_importance(part, []), 3).tolist() == [0, 1, 2]


def test_the_error_is_that_of_the_outputs() -> None:
    part, text = random_part(), [torch.randn(9, 6)]
    assert output_error(part, part, text) == 0
    nothing = selected(part, torch.tensor([], dtype=torch.long))
    assert output_error(part, nothing, text) == pytest.approx(1)
    assert output_error(part, nothing, []) is None


@pytest.mark.parametrize(("family", "options"), [("llama", {"mlp_bias": True}), ("olmo2", {})])
def test_channels_without_effect_are_removed_exactly(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Against the source, whose other channels have zeros in down; with norms before and after the part."""
    theirs = random_model(family, **options)
    used = {1: torch.arange(0, 48, 2), 2: torch.tensor([3, 4, 47])}
    with torch.no_grad():
        for layer, channels in used.items():
            kept = torch.zeros(48).index_fill_(0, channels, 1.0)
            theirs.model.layers[layer].mlp.down_proj.weight.mul_(kept)
    theirs.save_pretrained(tmp_path / "source")
    source = read_source(tmp_path / "source")
    drawn = plan(source, {"ffn": [{"layers": 1, "dim": 24}, {"layers": 2, "dim": 3}]})
    assert drawn.pruned == (1, 2)
    assert drawn.unused == ()
    assert "the same feed-forward width" in "; ".join(drawn.export.reasons)
    for text in (TEXT, None):
        model, fits = execute(source, drawn, calibration=text)
        assert [(fit.layer, fit.projection, fit.operator) for fit in fits] == [
            (1, "ffn", "48 -> 24"), (2, "ffn", "48 -> 3"),
        ]  # fmt: skip
        errors = [fit.output_error for fit in fits]
        assert errors == ([pytest.approx(0, abs=1e-6)] * 2 if text else [None, None])
        tokens = torch.randint(61, (2, 40))
        with torch.no_grad():
            torch.testing.assert_close(model.head(model(tokens)), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def chosen(model: Any, source: Any, layer: int) -> list[int]:
    """The channels of a layer's gate, by their values."""
    old, new = source.tensor(f"model.layers.{layer}.{GATE}"), model.layers[layer].ffn.gate.weight
    return [int((old == row).all(-1).nonzero()) for row in new]


def test_channels_are_those_of_the_largest_energy_on_the_text(checkpoint: Make) -> None:
    """Against transformers' own activations; a layer sees what the pruned layer before it gives."""
    from transformers import AutoModelForCausalLM

    folder = checkpoint("llama")
    source = read_source(folder)
    drawn = plan(source, {"ffn": [{"layers": "0,3", "dim": 16}]})
    assert {item.name for item in drawn.tensors if item.action == "pruned"} == {
        f"layers.{layer}.ffn.{name}.weight" for layer in (0, 3) for name in ("gate", "up", "down")
    }
    model, fits = execute(source, drawn, calibration=TEXT)
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    seen: list[Tensor] = []
    for layer in (0, 3):
        down = theirs.model.layers[layer].mlp.down_proj
        handle = down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            theirs(torch.stack(TEXT))
            energy = seen.pop().square().mean((0, 1)) * down.weight.square().sum(0)
            handle.remove()
            best = energy.argsort(descending=True)[:16].sort().values
            assert chosen(model, source, layer) == best.tolist()
            others = torch.ones(48).index_fill_(0, best, 0.0).bool()
            down.weight[:, others] = 0
    assert [fit.layer for fit in fits] == [0, 3]
    assert all(fit.output_error is not None and 0 < fit.output_error < 1 for fit in fits)
    tokens = torch.randint(61, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(model.head(model(tokens)), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_same_width_in_all_layers_is_a_stock_class(checkpoint: Make, tmp_path: Path) -> None:
    from surgery.apply.pipeline import publish

    source = read_source(checkpoint("llama"))
    drawn = plan(source, {"ffn": [{"dim": 32}]})
    assert (drawn.export.model_type, drawn.export.reasons) == ("llama", ())
    model, fits = execute(source, drawn, calibration=TEXT)
    assert publish(LazyModel.of(model), source, drawn, fits, tmp_path / "out").passed
    assert read_source(tmp_path / "out").backbone.ffn_dim == 32
    assert "12 pruned" in (tmp_path / "out" / "README.md").read_text()


def test_operators_are_fitted_to_the_channels(checkpoint: Make) -> None:
    source = read_source(checkpoint("llama"))
    rules = [{"match": ["gate", "up", "down"], "operator": "hdpl", "blocks": 4, "rank": 16, "layers": 1},
             {"match": ["gate"], "operator": "hdpl", "blocks": 4, "rank": 16, "layers": 2}]  # fmt: skip
    design = {"ffn": [{"layers": "1,2", "dim": 32}], "projections": rules}
    drawn = plan(source, design)
    assert drawn.pruned == (1, 2)
    for text in (TEXT, None):
        model, fits = execute(source, drawn, calibration=text)
        assert [(fit.layer, fit.projection) for fit in fits] == [
            (1, "ffn"), (1, "gate"), (1, "up"), (1, "down"), (2, "ffn"), (2, "gate"),
        ]  # fmt: skip
        assert all(fit.weight_error < 0.9 for fit in fits if fit.weight_error is not None)
        with torch.no_grad():
            assert model(torch.randint(61, (2, 40))).isfinite().all()


def test_folded_layers_are_averaged_first(checkpoint: Make) -> None:
    source = read_source(checkpoint("llama"))
    design = {"backbone": {"num_layers": 2}, "loop": {"count": 2}, "ffn": [{"layers": 0, "dim": 8}]}
    model, _ = execute(source, plan(source, design), calibration=TEXT)
    mean = (source.tensor(f"model.layers.0.{UP}") + source.tensor(f"model.layers.2.{UP}")) / 2
    rows: Tensor = model.state_dict()["layers.0.ffn.up.weight"]
    assert all(((mean - row).abs().amax(-1) < 1e-6).any() for row in rows)
    first, _ = execute(source, plan(source, design, fold="first"))
    assert len(chosen(first, source, 0)) == 8


def edited(source: Any, drawn: Plan, path: Path, changes: dict[str, str]) -> Plan:
    text = drawn.to_yaml()
    for module, action in changes.items():
        assert f"{module}: pruned" in text
        text = text.replace(f"{module}: pruned", f"{module}: {action}")
    path.write_text(text)
    return plan(source, path)


def test_a_plan_is_edited_part_by_part(checkpoint: Make, tmp_path: Path) -> None:
    source, path = read_source(checkpoint("llama")), tmp_path / "plan.yaml"
    drawn = plan(source, {"ffn": [{"layers": 1, "dim": 8}]})
    assert edited(source, drawn, path, {}).tensors == drawn.tensors
    silent = edited(source, drawn, path, {"layers.1.ffn.down": "silent"})
    model, fits = execute(source, silent, calibration=TEXT)
    assert not model.state_dict()["layers.1.ffn.down.weight"].any()
    assert len(fits) == 1
    new = edited(source, drawn, path, {f"layers.1.ffn.{name}": "new" for name in ("gate", "up", "down")})
    assert new.pruned == ()
    assert execute(source, new)[1] == ()
    with pytest.raises(UserError, match=r"tensors\.layers\.1\.ffn: is pruned as a whole"):
        edited(source, drawn, path, {"layers.1.ffn.gate": "new"})
