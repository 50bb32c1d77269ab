"""A mixer starts from the weights of the attention that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.apply.execute import execute
from surgery.apply.plan import Plan, plan
from surgery.apply.source import SourceModel, read_source
from surgery.context import Context
from surgery.mixers.patterns import attention_pattern, probabilities
from surgery.mixers.transplant import Moments, fit_output, output_error
from surgery.ops.rotary import rotary_tables
from tests.models import context

TEXT = [torch.randint(61, (96,), generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
DESIGNS: dict[str, dict[str, Any]] = {
    "G": {"layout": "FG"},
    "G of the same sizes": {"layout": "FG", "mixers": {"G": {"key_ratio": 1.0, "expand_v": 1.0}}},
    "G of fewer heads": {"layout": "FG", "mixers": {"G": {"heads": 2, "negative_eigenvalues": True}}},
    "G without gates": {
        "layout": "FG",
        "mixers": {"G": {"conv_size": 0, "gate": False, "decay": False, "heads": 8}},
    },
    "R": {"layout": "FR"},
    "R of the same sizes": {"layout": "FR", "mixers": {"R": {"key_ratio": 1.0, "expand_v": 1.0}}},
    "R of wide keys": {"layout": "FR", "mixers": {"R": {"key_ratio": 2.0, "heads": 2, "gate": False}}},
    "D": {"layout": "FD"},
    "D of fewer, wider heads": {
        "layout": "FD",
        "mixers": {"D": {"heads": 2, "expand_v": 2.0, "conv_size": 0}},
    },
    "M": {"layout": "FM"},
    "M of groups": {"layout": "FM", "mixers": {"M": {"groups": 2, "state_size": 8, "conv_size": 0}}},
    "H": {"layout": "FH"},
    "H of another width": {
        "layout": "FH",
        "mixers": {"H": {"heads": 2, "expand_v": 2.0, "lower_bound": 0.5}},
    },
    "K": {"layout": "FK"},
    "K with q and k": {"layout": "FK", "mixers": {"K": {"keep": "qk", "norm": False}}},
    "S": {"layout": "FS", "mixers": {"S": {"top_k": 16}}},
    "B": {"layout": "FB", "mixers": {"B": {"block": 4, "blocks": 3, "window": 8}}},
}
SILENT = [name for name in DESIGNS if name != "B"]


def actions(drawn: Plan, layer: int) -> dict[str, str]:
    prefix = f"layers.{layer}.mixer."
    return {
        tensor.name.removeprefix(prefix): tensor.action
        for tensor in drawn.tensors
        if tensor.name.startswith(prefix)
    }


@pytest.fixture
def source(checkpoint: Callable[..., Path]) -> SourceModel:
    return read_source(checkpoint("qwen3", head_dim=8, attention_bias=True))


def test_equal_shapes_do_not_mean_equal(checkpoint: Callable[..., Path]) -> None:
    """`o` of Gaussian attention has other inputs; 4 keys of 4 channels are not 2 keys of 8."""
    source = read_source(checkpoint("llama"))
    gaussian = plan(source, {"layout": "K"})
    assert actions(gaussian, 0) == {"o.weight": "transplanted", "log_sigma": "transplanted"}
    delta = plan(source, {"layout": "G", "mixers": {"G": {"key_ratio": 0.5, "heads": 2}}})
    weights = {name: action for name, action in actions(delta, 0).items() if name.endswith("weight")}
    assert set(weights.values()) == {"transplanted"}
    window = plan(source, {"layout": "W", "mixers": {"W": {"window": 8}}})
    assert set(actions(window, 0).values()) == {"kept"}
    sparse = actions(plan(source, {"layout": "S"}), 0)
    assert [sparse[f"{name}.weight"] for name in "qkv"] == ["kept"] * 3
    assert sparse["indexer.k.weight"] == sparse["o.weight"] == "transplanted"
    blocks = actions(plan(source, {"layout": "B"}), 0)
    assert [blocks[f"{name}.weight"] for name in "qkv"] == ["kept"] * 3
    assert blocks["gate.weight"] == blocks["gate.bias"] == blocks["o.weight"] == "transplanted"


@pytest.mark.parametrize("design", DESIGNS)
def test_no_start_is_worse_than_a_silent_mixer(source: SourceModel, design: str) -> None:
    drawn = plan(source, DESIGNS[design])
    assert drawn.transplanted == (1, 3)
    _, fits = execute(source, drawn, calibration=TEXT)
    errors = [fit.output_error for fit in fits]
    assert [fit.layer for fit in fits] == [1, 3]
    assert all(error is not None and error < 1 for error in errors), errors


@pytest.mark.parametrize("design", SILENT)
def test_without_a_text_the_mixer_is_silent(source: SourceModel, design: str) -> None:
    model, fits = execute(source, plan(source, DESIGNS[design]))
    assert [fit.output_error for fit in fits] == [None, None]
    state = model.state_dict()
    for layer in (1, 3):
        assert not state[f"layers.{layer}.mixer.o.weight"].any()
        assert not state[f"layers.{layer}.mixer.o.bias"].any()
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_projections_of_the_same_sizes_are_copied_and_repeated(source: SourceModel) -> None:
    model, _ = execute(source, plan(source, DESIGNS["G of the same sizes"]), calibration=TEXT)
    state = model.state_dict()
    q, k, v = (source.tensor(f"model.layers.1.self_attn.{name}_proj.weight") for name in "qkv")
    assert torch.equal(state["layers.1.mixer.q.weight"], q)
    expected = torch.cat([k[:8], k[:8], k[8:], k[8:]])  # 4 query heads on 2 key heads
    assert torch.equal(state["layers.1.mixer.k.weight"], expected)
    expected = torch.cat([v[:8], v[:8], v[8:], v[8:]])
    values = state["layers.1.mixer.v.weight"]
    torch.testing.assert_close(values, expected * (values.norm() / expected.norm()))
    taps = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(96, 1, 4)
    assert torch.equal(state["layers.1.mixer.conv"], taps)


def test_retention_keeps_the_channels_whose_angles_it_has(checkpoint: Callable[..., Path]) -> None:
    source = read_source(checkpoint("llama", head_dim=16))
    drawn = plan(source, {"layout": "FR", "mixers": {"R": {"key_ratio": 1.0, "expand_v": 2.0}}})
    state = execute(source, drawn, calibration=TEXT)[0].state_dict()
    q, k = (
        source.tensor(f"model.layers.1.self_attn.{name}_proj.weight").unflatten(0, (-1, 16)) for name in "qk"
    )
    kept = torch.tensor([0, 2, 4, 6, 8, 10, 12, 14])  # 4 of 8 pairs: i and i + 8
    assert torch.equal(state["layers.1.mixer.q.weight"].unflatten(0, (4, 8)), q[:, kept])
    expected = torch.stack([k[0], k[0], k[1], k[1]])[:, kept]  # 4 query heads on 2 key heads
    assert torch.equal(state["layers.1.mixer.k.weight"].unflatten(0, (4, 8)), expected)


def test_a_gate_on_attention_changes_nothing_at_first(source: SourceModel) -> None:
    gated, _ = execute(source, plan(source, {"mixers": {"F": {"gate": True}}}))
    plain, _ = execute(source, plan(source, {}))
    torch.testing.assert_close(gated(TEXT[0][None]), plain(TEXT[0][None]))


def test_sparse_attention_over_all_tokens_is_the_attention_that_it_replaces(source: SourceModel) -> None:
    drawn = plan(source, {"layout": "S", "mixers": {"S": {"top_k": 128}}})
    sparse, _ = execute(source, drawn, calibration=TEXT[:2])
    plain, _ = execute(source, plan(source, {}))
    torch.testing.assert_close(sparse(TEXT[0][None]), plain(TEXT[0][None]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("calibration", [None, TEXT[:2]], ids=["without text", "with text"])
def test_blocks_over_all_tokens_are_nearly_the_attention_that_they_replace(
    source: SourceModel, calibration: list[torch.Tensor] | None
) -> None:
    """Within what the gate of the compressed blocks, which is never quite closed, lets through."""
    drawn = plan(source, {"layout": "B", "mixers": {"B": {"blocks": 8, "window": 128}}})
    blocks, _ = execute(source, drawn, calibration=calibration)
    plain, _ = execute(source, plan(source, {}))
    expected = plain(TEXT[0][None])
    assert (blocks(TEXT[0][None]) - expected).norm() < 0.02 * expected.norm()


def test_a_trained_indexer_selects_what_attention_looks_at(source: SourceModel) -> None:
    """The attention's mass on the 16 selected of 96 tokens, against that of an untrained indexer."""
    from surgery.mixers.sparse.indexer import Index

    drawn = plan(source, {"layout": "S", "mixers": {"S": {"top_k": 16}}})
    model, _ = execute(source, drawn, calibration=TEXT)
    old = execute(source, plan(source, {}))[0].layers[0]
    context = Context(rotary_tables(source.backbone, torch.arange(96)[None]))
    x = old.mixer_norm(model.embed(TEXT[0][None]))
    p = probabilities(old.mixer, x, context).mean(1)[0, 48:]

    def mass(indexer: Any) -> float:
        index = Index(*indexer.query(x, context.rotary), indexer.key(x, context.rotary)[:, 0])
        scores = index.scores(96)[0].masked_fill(torch.ones(96, 96).triu(1).bool(), -torch.inf)[48:]
        return float(p.gather(1, scores.topk(16).indices).sum(1).mean())

    with torch.no_grad():
        trained = mass(model.layers[0].mixer.indexer)
        for parameter in model.layers[0].mixer.indexer.parameters():
            parameter.normal_(std=0.2)
        assert trained > mass(model.layers[0].mixer.indexer) + 0.05


def test_probabilities_are_those_of_transformers(checkpoint: Callable[..., Path]) -> None:
    from transformers import AutoModelForCausalLM

    folder = checkpoint("qwen3", head_dim=8)
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    source = read_source(folder)
    model, _ = execute(source, plan(source, {}))
    block = model.layers[0]
    context = Context(rotary_tables(source.backbone, torch.arange(96)[None]))
    with torch.no_grad():
        expected = theirs(TEXT[0][None], output_attentions=True).attentions[0]
        x = block.mixer_norm(model.embed(TEXT[0][None]))
        torch.testing.assert_close(probabilities(block.mixer, x, context), expected, atol=1e-5, rtol=1e-4)
        distance, entropy = attention_pattern(block.mixer, [(x, context)], 96)
    for head in range(4):
        rows = expected[0, head].tolist()
        far = sum(p * (t - s) for t, row in enumerate(rows) for s, p in enumerate(row[: t + 1])) / 96
        assert float(distance[head]) == pytest.approx(far, rel=1e-3)
    assert ((entropy > 0) & (entropy < 1)).all()


def test_ridge_regression_is_the_minimum() -> None:
    """The gradient of the penalised squared error vanishes at the solution."""
    x, y = torch.randn(200, 6, dtype=torch.float64), torch.randn(200, 3, dtype=torch.float64)
    sums = Moments.of(x[:80], y[:80]) + Moments.of(x[80:], y[80:])
    start = torch.randn(6, 3, dtype=torch.float64)
    weight = sums.solve(0.5, start).requires_grad_()
    ridge = 0.5 * (x.T @ x).diagonal().mean()
    loss = (y - x @ weight).square().sum() + ridge * (weight - start).square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.abs().max() < 1e-8
    assert sums.error(weight.detach()) == pytest.approx(float((y - x @ weight.detach()).square().sum()))


def test_an_output_that_can_be_reached_is_reached() -> None:
    """The old mixer is the new one with another `o` and a bias."""

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.o = torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
            out: torch.Tensor = self.o(x.tanh())
            return out

    new, old = Linear(), Linear()
    text = [(torch.randn(1, 200, 8), context()) for _ in range(3)]
    assert fit_output(new, old, text) < 0.05
    error = output_error(new, old, text)
    assert error is not None
    assert error < 0.05
    assert fit_output(new, old, text, prior=old.o.weight) < 1e-3
    torch.testing.assert_close(new.o.bias, old.o.bias, atol=1e-3, rtol=0)
    assert fit_output(new, old, []) == 1.0
    assert not new.o.weight.any()
