"""The stack: loops, their gates and caches, embeddings, starting values, determinism."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.architecture import Architecture
from surgery.context import Context, DecodeCache
from surgery.model import HybridLM
from surgery.ops.rotary import rotary_tables
from surgery.projections.hdpl.kl import LN2
from surgery.projections.siblings import project
from tests.models import architecture, build, context, decode
from tests.strategies import architectures

HDPL: list[Any] = [{"match": ["q", "up", "down"], "operator": "hdpl", "blocks": 2, "rank": 3, "kl": "mean"}]


@pytest.mark.parametrize("loops", [1, 2, 3, 4])
def test_a_looped_stack_is_the_unrolled_one(loops: int) -> None:
    arch = architecture(loops=loops, projections=HDPL)
    model = build(arch, spread=0.3)
    tokens = torch.randint(37, (2, 11))
    context = Context(rotary_tables(arch.backbone, torch.arange(11)[None]))
    h = model.embed(tokens)
    for turn in range(loops):
        entry = h
        for block in model.layers:
            u = h + block.mixer(block.mixer_norm(h), context)
            x = block.ffn_norm(u)
            gate, up = block.ffn.gate(x, context), block.ffn.up(x, context)
            h = u + block.ffn.down(gate * torch.sigmoid(gate) * up, context)
        if loops > 1:
            h = h + model.loop_gate[turn] * entry  # LT2: h(t) = Blocks(h(t-1)) + rho_t h(t-1)
    normed = h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * model.norm.weight
    torch.testing.assert_close(model(tokens), normed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("span", "first", "last"), [("1-2", 1, 2), ("0-1", 0, 1), ("2--1", 2, 3), ("1", 1, 1)]
)
@pytest.mark.parametrize("inject", [False, True])
def test_a_looped_span_is_the_unrolled_one(span: str, first: int, last: int, inject: bool) -> None:
    """The prelude and the coda run once; passes see what came into the span again, if they are to."""
    arch = architecture("FGWF", mixers={"W": {"window": 3}}, loops=3, span=span, inject=inject, num_layers=4)
    model = build(arch, spread=0.3)
    tokens = torch.randint(37, (2, 9))
    context = Context(rotary_tables(arch.backbone, torch.arange(9)[None]))
    h = model.embed(tokens)
    for block in model.layers[:first]:
        h = block(h, context)
    begin = h
    for turn in range(3):
        if inject and turn:
            h = h + model.inject_gate[turn - 1] * begin
        entry = h
        for block in model.layers[first : last + 1]:
            h = block(h, context)
        h = h + model.loop_gate[turn] * entry
    for block in model.layers[last + 1 :]:
        h = block(h, context)
    torch.testing.assert_close(model(tokens), model.norm(h), rtol=1e-5, atol=1e-5)
    assert arch.depth == 4 + 2 * (last - first + 1)


def test_later_passes_change_projections_by_low_rank_matrices() -> None:
    """The looped model equals a deeper one without a loop, whose layers have the changed matrices."""
    window = {"W": {"window": 3}}
    arch = architecture("FGW", mixers=window, num_layers=3, loops=3, span="1-2", delta_rank=2)
    model = build(arch, spread=0.3)
    with torch.no_grad():
        model.loop_gate.zero_()
    weights = model.state_dict()
    unrolled = {}
    for name, weight in weights.items():
        if "deltas" in name or name == "loop_gate":
            continue
        unrolled[name] = weight
        if not name.startswith(("layers.1.", "layers.2.")):
            continue
        _, layer, rest = name.split(".", 2)
        changes = name.removesuffix("weight") + "deltas."
        for turn in (1, 2):
            copy = f"layers.{int(layer) + 2 * turn}.{rest}"
            unrolled[copy] = weight
            if changes + "a" in weights:
                change = weights[changes + "b"][turn - 1] @ weights[changes + "a"][turn - 1]
                unrolled[copy] = weight + change
    deep = HybridLM(architecture("FGWGWGW", mixers=window, num_layers=7)).eval()
    deep.load_state_dict(unrolled)
    tokens = torch.randint(37, (2, 9))
    torch.testing.assert_close(model(tokens), deep(tokens), rtol=1e-4, atol=1e-4)


def test_changes_of_later_passes_are_added_behind_any_operator_and_start_silent() -> None:
    model = HybridLM(architecture(projections=HDPL, loops=2, delta_rank=3)).eval()
    plain = HybridLM(architecture(projections=HDPL, loops=2)).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "deltas" not in k})
    tokens = torch.randint(37, (2, 9))
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=0, atol=0)
    projection, x = build(model.architecture).layers[0].ffn.up, torch.randn(2, 5, 24)
    first, second = (project(x, context(slot=(0, turn)), projection)[0] for turn in (0, 1))
    changed = x @ projection.deltas.a[0].T @ projection.deltas.b[0].T
    torch.testing.assert_close(second, first + changed, rtol=1e-5, atol=1e-5)
    assert changed.abs().min() > 0


def test_windows_of_passes_are_those_of_the_span() -> None:
    """Full attention before and behind the span sees everything, in it what the pass allows."""
    arch = architecture(loops=2, windows=[2, "full"], span="1", num_layers=3)
    model = build(arch, spread=0.3)
    tokens = torch.randint(37, (1, 8))
    context = Context(rotary_tables(arch.backbone, torch.arange(8)[None]))
    h = model.layers[0](model.embed(tokens), context)
    for turn, window in enumerate((2, None)):
        context.window = window
        h = model.layers[1](h, context) + model.loop_gate[turn] * h
    torch.testing.assert_close(model(tokens), model.norm(model.layers[2](h, context)), rtol=1e-5, atol=1e-5)


def test_decoding_of_a_span_keeps_a_state_for_each_pass_in_it() -> None:
    arch = architecture("FGF", loops=3, span="1-2", inject=True, delta_rank=2, num_layers=3)
    model = build(arch, spread=0.3)
    tokens = torch.randint(37, (2, 12))
    cache = DecodeCache()
    with torch.no_grad():
        stepwise = decode(model, tokens, [5, 1, 1, 5], cache)
        torch.testing.assert_close(stepwise, model(tokens), rtol=1e-4, atol=1e-4)
    assert set(cache.states) == {(0, 0)} | {(layer, turn) for layer in (1, 2) for turn in range(3)}


@pytest.mark.parametrize("loops", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", [[1] * 12, [7, 1, 4]])
def test_decoding_keeps_a_state_for_each_layer_and_pass(loops: int, sizes: list[int]) -> None:
    model = build(architecture(loops=loops, projections=HDPL, num_layers=3), spread=0.3)
    tokens = torch.randint(37, (2, 12))
    cache = DecodeCache()
    with torch.no_grad():
        torch.testing.assert_close(decode(model, tokens, sizes, cache), model(tokens), rtol=1e-4, atol=1e-4)
    assert set(cache.states) == {(layer, turn) for layer in range(3) for turn in range(loops)}
    keys = [state[0] for state in cache.states.values()]
    assert all(not torch.equal(a, b) for index, a in enumerate(keys) for b in keys[:index])


def test_loop_gates_start_at_zero_and_learn() -> None:
    model = HybridLM(architecture(loops=3))
    assert model.loop_gate is not None
    assert model.loop_gate.shape == (3, 24)
    assert not model.loop_gate.any()
    loss, _ = model.loss(torch.randint(37, (2, 9)), torch.randint(37, (2, 9)))
    loss.backward()
    assert model.loop_gate.grad is not None
    assert model.loop_gate.grad.abs().amax(-1).min() > 0
    assert HybridLM(architecture()).loop_gate is None


def test_a_loop_whose_gates_are_shut_is_the_stack_run_again() -> None:
    looped = build(architecture(loops=2))
    torch.nn.init.zeros_(looped.loop_gate)
    once = HybridLM(architecture()).eval()
    once.load_state_dict({k: v for k, v in looped.state_dict().items() if k != "loop_gate"}, strict=True)
    tokens = torch.randint(37, (1, 6))
    with torch.no_grad():
        context = Context(rotary_tables(once.architecture.backbone, torch.arange(6)[None]))
        h = once.embed(tokens)
        for block in (*once.layers, *once.layers):
            h = block(h, context)
        torch.testing.assert_close(looped(tokens), once.norm(h))


def test_tied_embeddings_are_one_tensor_and_untied_two() -> None:
    tied, untied = (HybridLM(architecture(tie_embeddings=tie)) for tie in (True, False))
    assert tied.head.weight is tied.embed.weight
    assert untied.head.weight is not untied.embed.weight
    loss, _ = tied.loss(torch.randint(37, (1, 5)), torch.randint(37, (1, 5)))
    loss.backward()
    assert tied.embed.weight.grad is not None
    assert tied.embed.weight.grad.abs().amax(-1).min() > 0  # the head reaches tokens that were not read
    assert "head.weight" not in dict(tied.named_parameters())


@settings(max_examples=15)
@given(architectures(), st.booleans())
def test_one_seed_one_model_one_loss(arch: Architecture, training: bool) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        model = HybridLM(arch).train(training)
        tokens = torch.randint(arch.backbone.vocab_size, (2, 8))
        loss, auxiliary = model.loss(tokens[:, :-1], tokens[:, 1:])
        (loss + auxiliary).backward()
        results.append([loss, auxiliary, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@settings(max_examples=25)
@given(architectures(max_loops=4), st.data())
def test_any_architecture_decodes_as_it_reads(arch: Architecture, data: st.DataObject) -> None:
    torch.manual_seed(0)
    model = build(arch)
    length = data.draw(st.integers(1, 12))
    sizes = []
    while sum(sizes) < length:
        sizes.append(data.draw(st.integers(1, length - sum(sizes))))
    tokens = torch.randint(arch.backbone.vocab_size, (2, length))
    with torch.no_grad():
        torch.testing.assert_close(decode(model, tokens, sizes), model(tokens), rtol=1e-3, atol=1e-3)


def test_starting_loss_is_that_of_guessing() -> None:
    arch = architecture(
        num_layers=6, vocab_size=500, dim=64, num_heads=8, num_kv_heads=8, head_dim=8, loops=2
    )
    tokens = torch.randint(500, (8, 32))
    loss, auxiliary = HybridLM(arch).loss(tokens, torch.randint(500, (8, 32)))
    assert loss.item() == pytest.approx(torch.log(torch.tensor(500.0)).item() + 0.5, abs=0.6)
    assert auxiliary.item() == 0


@pytest.mark.parametrize(
    ("dim", "tied", "loops"),
    [(24, True, 2), (25, True, 1), (1024, True, 1), (1024, False, 1), (2048, True, 2)],
)
def test_starting_loss_is_that_of_guessing_at_every_width(dim: int, tied: bool, loops: int) -> None:
    """A tied head once began with the token itself as its successor, at a loss of dim^0.5 nats."""
    sizes = {"dim": dim, "head_dim": 6, "vocab_size": 1000, "ffn_dim": 8, "num_layers": 1}
    model = HybridLM(architecture("W", tie_embeddings=tied, loops=loops, **sizes))
    tokens = torch.randint(1000, (8, 65))
    loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
    assert loss.item() == pytest.approx(math.log(1000) + 0.5, abs=0.3)
    repeated = tokens[:, :1].expand(-1, 65)  # the worst and the best text for a head that scores itself
    loss, _ = model.loss(repeated[:, :-1], repeated[:, 1:])
    assert loss.item() == pytest.approx(math.log(1000) + 0.5, abs=1.5)


def test_only_the_last_norm_of_a_tied_model_starts_otherwise() -> None:
    states = []
    for tied in (True, False):
        torch.manual_seed(3)
        states.append(HybridLM(architecture("FG", tie_embeddings=tied, loops=2)).state_dict())
    tied, untied = states
    assert {name for name in untied if not torch.equal(tied[name], untied[name])} == {
        "norm.weight",
        "head.weight",
    }
    assert untied["norm.weight"].eq(1).all()
    assert tied["norm.weight"].tolist() == [1.0, -1.0] * 12


def test_starting_values_of_dense_maps() -> None:
    model = HybridLM(architecture(dim=128, ffn_dim=256, num_layers=2, loops=2, biases="all"))
    layer = model.layers[1]
    for module in (layer.ffn.up, layer.mixer.q, model.embed, model.head):
        std = 128**-0.5
        assert module.weight.std().item() == pytest.approx(std, rel=0.05)
        assert module.weight.abs().max() <= 3.001 * std
    assert not layer.ffn.up.bias.any()
    assert layer.mixer_norm.weight.eq(1).all()


@settings(max_examples=25)
@given(architectures(max_loops=4))
def test_the_stack_starts_as_the_identity_and_every_way_out_learns(arch: Architecture) -> None:
    model = HybridLM(arch).train()
    tokens = torch.randint(arch.backbone.vocab_size, (2, 12))
    torch.testing.assert_close(model(tokens), model.norm(model.embed(tokens)), rtol=0, atol=0)
    loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    for block in model.layers:
        # what the stream passes last, before it is added; a part may be left out
        last = [block.mixer.o] if block.mixer is not None else []
        last += [block.ffn.down] if block.ffn is not None else []
        norms = [norm for norm in (block.mixer_norm, block.ffn_norm) if norm is not None]
        for way_out in norms if block.post_norm else last:
            gradients = [parameter.grad for parameter in way_out.parameters() if parameter.grad is not None]
            assert any(gradient.any() for gradient in gradients)


def test_auxiliary_losses_add_up_over_projections_layers_and_passes() -> None:
    rules = [{"match": ["q", "k"], "operator": "hdpl", "blocks": 2, "rank": 64, "kl_weight": 0.25}]
    model = HybridLM(architecture(loops=3, projections=rules, num_layers=2)).train()
    tokens = torch.randint(37, (2, 6))
    _, auxiliary = model.loss(tokens, tokens)
    assert auxiliary.item() == pytest.approx(0.25 * LN2 * 2 * 2 * 3, rel=1e-5)
    assert model.eval().loss(tokens, tokens)[1].item() == 0


def test_embeddings_may_stand_in_for_tokens() -> None:
    model = build(architecture())
    tokens = torch.randint(37, (2, 6))
    torch.testing.assert_close(model(None, embeddings=model.embed(tokens)), model(tokens))


def test_positions_and_a_mask_of_ones_change_nothing() -> None:
    model = build(architecture())
    tokens = torch.randint(37, (2, 6))
    plain = model(tokens)
    torch.testing.assert_close(model(tokens, attention_mask=torch.ones(2, 6)), plain)
    torch.testing.assert_close(model(tokens, positions=torch.arange(6)[None].expand(2, 6)), plain)
    torch.testing.assert_close(
        model(tokens, positions=torch.arange(6)[None] + 9), plain, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("length", [1, 3, 5])
def test_every_query_sees_something_even_padding(length: int) -> None:
    """A row of a mask without any True is NaN in some of SDPA's kernels."""
    padded = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    positions = torch.arange(5 - length, 5).expand(3, length)
    rotary = rotary_tables(architecture().backbone, positions)
    mask = Context(rotary, seen=5 - length, padding=padded.bool()).mask
    assert mask is not None
    assert mask.shape == (3, 1, length, 5)
    assert mask.any(-1).all()
    assert torch.equal(mask[2, 0], torch.ones(5, 5).tril().bool()[-length:])
    assert not mask[1, 0, -1, :3].any()
