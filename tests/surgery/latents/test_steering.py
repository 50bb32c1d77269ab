"""Steered models against models with other weights, the formula written out, and themselves unsteered."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from surgery.hf.configuration import NasConfig
from surgery.hf.modeling import NasForCausalLM
from surgery.latents import latent_projections, ranks_of, read_steering, steered
from surgery.latents.change import Change, Steer
from surgery.latents.projections import Latent
from surgery.latents.steering import Steering
from surgery.model import HybridLM
from surgery.projections.hdpl.module import HDPL
from surgery.projections.siblings import project
from tests.models import architecture, build, context

RANK = 5
RULES = [{"match": ["q", "k", "gate", "up"], "operator": "hdpl", "blocks": 2, "rank": RANK, "kl": "mean"}]
LENGTHS = (3, 90)  # tokens: each projection on its own, and encoders joined


def model_of(**fields: Any) -> HybridLM:
    torch.manual_seed(0)
    return build(architecture("FG", projections=RULES, **fields))


def read(model: HybridLM, *rules: dict[str, Any]) -> Steering:
    ranks = ranks_of(latent_projections(model))
    return read_steering({"steer": list(rules)}, ranks, len(model.layers))


def causal(model: HybridLM) -> NasForCausalLM:
    return NasForCausalLM.wrap(model, NasConfig(model.architecture.to_dict())).eval()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("loops", [1, 2])
def test_scale_and_offset_are_another_encoder(length: int, grad: bool, loops: int) -> None:
    """z = s (W x + b) + a is the encoder (s W, s b + a)."""
    model = model_of(loops=loops)
    tokens = torch.randint(0, 37, (1, length))
    offset = [0.5, -1.0, 2.0, 0.0, 0.25]
    steering = read(
        model,
        {"match": ["q", "gate"], "layers": 0, "add": offset},
        {"match": "up", "layers": "-1", "units": "1-2,-1", "scale": -2, "add": 0.5},
    )
    other = copy.deepcopy(model)
    with torch.no_grad():
        for encoder in (other.layers[0].mixer.q.mu, other.layers[0].ffn.gate.mu):
            encoder.bias += torch.tensor(offset)
        encoder = other.layers[1].ffn.up.mu
        for unit in (1, 2, 4):
            encoder.weight[unit] *= -2
            encoder.bias[unit] = -2 * encoder.bias[unit] + 0.5
    with torch.set_grad_enabled(grad):
        plain = model(tokens)
        with steered(model, steering):
            result = model(tokens)
        assert torch.equal(model(tokens), plain)
        torch.testing.assert_close(result, other(tokens), rtol=1e-4, atol=1e-5)
    assert (result - plain).abs().max() > 0.01


def by_hand(module: HDPL, x: Tensor, change: Change) -> Tensor:
    """The operator, one block and one unit after the other."""
    z = x @ module.mu.weight.T + module.mu.bias
    units = []
    for unit in range(z.shape[1]):
        moved = float(change.scale[unit]) * z[:, unit] + float(change.offset[unit])
        units.append(moved.clamp(float(change.low[unit]), float(change.high[unit])))
    slices = x.chunk(len(module.blocks), dim=-1)
    path = torch.cat([part @ block.T for part, block in zip(slices, module.blocks, strict=True)], dim=-1)
    return path + F.silu(torch.stack(units, 1)) @ module.decoder.weight.T


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("hooked", [False, True])
def test_a_clamp_by_hand_and_siblings_bit_for_bit(length: int, hooked: bool) -> None:
    torch.manual_seed(0)
    modules = [HDPL(12, 8, blocks=2, rank=RANK, kl_weight=0.0, kl="mean").eval() for _ in range(3)]
    x = torch.randn(length, 12)
    identity = Change.identity(RANK)
    bounds = torch.tensor([0.3, math.inf, 0.1, 1.0, 0.0], dtype=torch.float64)
    change = Change(2 * identity.scale, identity.offset + 0.1, -bounds, bounds)
    with torch.no_grad():
        before = project(x, context(), *modules)
        modules[1].steer = Steer(change, modules[1].blocks)
        if hooked:  # then its inner layers are called, as with adapters on them
            modules[1].decoder.register_forward_hook(lambda module, inputs, y: y)
        after = project(x, context(), *modules)
        torch.testing.assert_close(after[1], by_hand(modules[1], x, change))
    assert (after[1] - before[1]).abs().max() > 0.01
    if not hooked:
        assert torch.equal(after[0], before[0])
        assert torch.equal(after[2], before[2])


def test_training_is_steered_too() -> None:
    """With a variance near zero, what is sampled is the steered mean; the offset has a gradient."""
    torch.manual_seed(0)
    module = HDPL(12, 8, blocks=2, rank=RANK, kl_weight=1.0, kl="mean")
    with torch.no_grad():
        module.logvar.bias.fill_(-60)
    x = torch.randn(20, 12)
    change = Change.shift(torch.arange(RANK).float())
    module.steer = Steer(change, module.blocks, trains=True)
    here = context()
    y = module(x, here)
    torch.testing.assert_close(y, by_hand(module, x, change), rtol=1e-4, atol=1e-4)
    z = x @ module.mu.weight.T + module.mu.bias + change.offset.float()
    logvar = module.logvar(x)
    kl = 0.5 * (z.square() + logvar.exp() - logvar - 1)
    torch.testing.assert_close(here.losses[0], kl.mean(), rtol=1e-4, atol=1e-4)
    y.sum().backward()
    assert module.steer.offset.grad is not None
    assert module.steer.offset.grad.abs().min() > 0


NUMBERS = st.sampled_from((-2.0, -0.5, 0.0, 0.5, 1.0, 3.0))
BOUNDS = st.sampled_from((-math.inf, -1.0, -0.25, 0.0, 0.5, 2.0, math.inf))


@st.composite
def any_change(pick: st.DrawFn) -> Change:
    low, high = sorted((pick(BOUNDS), pick(BOUNDS)))
    low, high = (-math.inf if low == math.inf else low), (math.inf if high == -math.inf else high)
    return Change(*(torch.tensor([value]).double() for value in (pick(NUMBERS), pick(NUMBERS), low, high)))


@given(st.lists(any_change(), min_size=2, max_size=4))
def test_one_change_stands_for_several(changes: list[Change]) -> None:
    z = torch.linspace(-4, 4, 33).double()[:, None]
    expected = z
    whole = Change.identity(1)
    for change in changes:
        moved = float(change.scale) * expected + float(change.offset)
        expected = moved.clamp(float(change.low), float(change.high))
        whole = whole.then(change)
    module = Steer(whole, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(module(z), expected)
    torch.testing.assert_close(module.change.low, whole.low)


def test_rules_and_blocks_compose_in_their_order() -> None:
    model = model_of()
    tokens = torch.randint(0, 37, (1, 20))
    first = {"match": "q", "scale": 2, "add": 1, "clamp": [-1, 1]}
    second = {"match": ["q", "gate"], "scale": 0.5, "add": -3, "clamp": [None, 0]}
    with torch.no_grad():
        with steered(model, read(model, first, second)):
            whole = model(tokens)
        with steered(model, read(model, first), read(model, second)):
            torch.testing.assert_close(model(tokens), whole)
        with steered(model, read(model, first)):
            outer = model(tokens)
            with steered(model, read(model, second)):
                torch.testing.assert_close(model(tokens), whole)
            assert torch.equal(model(tokens), outer)


def test_a_failed_block_leaves_nothing_behind() -> None:
    model = model_of()
    tokens = torch.randint(0, 37, (1, 20))
    names = set(model.state_dict())
    before = model(tokens)

    def fail() -> None:
        with steered(model, read(model, {"match": "q", "add": 1})):
            assert set(model.state_dict()) == names  # what is saved now is the model itself
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(model(tokens), before)


def test_cached_generation_is_steered_at_every_token() -> None:
    model = causal(model_of())
    prompt = torch.randint(1, 37, (2, 7))
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(prompt, **options)
    with steered(model, read(model.model, {"match": "all", "add": 1.5, "scale": 1.5})):
        cached = model.generate(prompt, **options)
        assert torch.equal(cached, model.generate(prompt, use_cache=False, **options))
        row = prompt
        for _ in range(12):
            row = torch.cat([row, model(row, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
        assert torch.equal(cached, row)
    assert not torch.equal(cached, plain)
    assert torch.equal(model.generate(prompt, **options), plain)


@pytest.mark.slow
def test_compiled_models_are_steered_whenever_they_were_compiled() -> None:
    model = causal(model_of())
    tokens = torch.randint(0, 37, (1, 12))
    compiled = torch.compile(model, backend="eager")
    steering = read(model.model, {"match": "all", "add": 1})
    with torch.no_grad():
        plain = compiled(tokens).logits
        with steered(model, steering):
            expected = model(tokens).logits
        with steered(compiled, steering):
            torch.testing.assert_close(compiled(tokens).logits, expected)
        torch.testing.assert_close(compiled(tokens).logits, plain)
    assert (expected - plain).abs().max() > 0.01


def test_half_precision_keeps_its_dtype() -> None:
    model = model_of().bfloat16()
    tokens = torch.randint(0, 37, (1, 80))
    with steered(model, read(model, {"match": "all", "add": 1, "clamp": [-1, 1], "scale": 2})):
        assert model(tokens).dtype == torch.bfloat16


def test_a_model_with_other_latents_is_refused() -> None:
    model = model_of()
    wrong = Steering({
        Latent(0, "q"): Change.identity(RANK + 1), Latent(7, "up"): Change.identity(RANK),
    })  # fmt: skip
    with pytest.raises(ValueError, match=r"layers\.0\.q") as error, steered(model, wrong):
        pass
    assert "layers.7.up" in str(error.value)
    with pytest.raises(ValueError, match="no HDPL"), steered(HybridLM(architecture("F"))):
        pass
