"""Replacements, wrappers and hooks of a linear layer take part: in HDPL, in every mixer, in the head."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from surgery.model import HybridLM
from surgery.ops.plain import is_plain
from tests.models import architecture, build

HDPL = [{"match": ["q", "v", "gate", "up", "down"], "operator": "hdpl", "blocks": 2, "rank": 6, "kl": "mean"}]
MIXERS = {"W": {"window": 4}, "S": {"top_k": 3}, "F": {"gate": True}}
TOKENS = torch.randint(37, (2, 11), generator=torch.Generator().manual_seed(1))
FACTOR = 1.25


def model() -> HybridLM:
    torch.manual_seed(0)
    return build(architecture("FGWSK", num_layers=5, mixers=MIXERS, projections=HDPL))


def linears(of: HybridLM) -> list[str]:
    """Names of all linear layers, those inside the operators, the indexer and the head among them."""
    names = [name for name, module in of.named_modules() if isinstance(module, nn.Linear)]
    assert {"layers.0.mixer.q.mu", "layers.1.mixer.beta", "layers.3.mixer.indexer.k", "head"} <= set(names)
    return names


def swap(of: HybridLM, name: str, new: nn.Module) -> None:
    of.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], new)


class Wrapped(nn.Module):
    """A stand-in for a linear layer, like an adapter or a quantised one: it takes no second argument."""

    def __init__(self, inner: nn.Linear, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        bias = 0 if self.inner.bias is None else self.inner.bias
        y: Tensor = bias + self.factor * nn.functional.linear(x, self.inner.weight)
        return y


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return FACTOR * weight


class Foreign(Tensor):
    """A class of its own, as quantised weights have; they keep their layer, and act where it multiplies."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is nn.functional.linear:
            args = (args[0], FACTOR * args[1].as_subclass(Tensor), *args[2:])
            return function(*args, **(kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs or {})


def with_wrapper(of: HybridLM, name: str) -> None:
    swap(of, name, Wrapped(of.get_submodule(name), FACTOR))  # type: ignore[arg-type]


def with_parametrization(of: HybridLM, name: str) -> None:
    parametrize.register_parametrization(of.get_submodule(name), "weight", Scaled())


def with_hook(of: HybridLM, name: str) -> None:
    """A hook before the call that scales the input scales the product, not the bias."""
    of.get_submodule(name).register_forward_pre_hook(lambda _, inputs: (FACTOR * inputs[0], *inputs[1:]))


def with_forward_of_its_own(of: HybridLM, name: str) -> None:
    layer = of.get_submodule(name)
    forward = layer.forward
    layer.forward = lambda x, *rest: forward(FACTOR * x, *rest)  # type: ignore[method-assign]


def with_foreign_weight(of: HybridLM, name: str) -> None:
    layer = of.get_submodule(name)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Foreign))
    assert type(layer.weight) is Foreign


WAYS = [with_wrapper, with_parametrization, with_hook, with_forward_of_its_own, with_foreign_weight]


@pytest.mark.parametrize("way", WAYS)
def test_it_takes_effect_in_every_linear_layer(way: Callable[[HybridLM, str], None]) -> None:
    """Replaced layers act like a larger weight, in evaluation and in training."""
    plain, changed = model(), model()
    for name in linears(plain):
        with torch.no_grad():
            plain.get_submodule(name).weight.mul_(FACTOR)  # type: ignore[union-attr, operator]
        way(changed, name)
    with torch.no_grad():
        torch.testing.assert_close(
            changed.head(changed(TOKENS)), plain.head(plain(TOKENS)), atol=1e-4, rtol=1e-4
        )
    result = []
    for each in (plain.train(), changed.train()):
        torch.manual_seed(5)  # the noise is the same, drawn in the same order
        result.append(each.loss(TOKENS, TOKENS))
    torch.testing.assert_close(result[1], result[0], atol=1e-4, rtol=1e-4)


def test_gradients_by_layers_are_those_by_weights() -> None:
    plain, called = model().train(), model().train()
    for name in linears(called):
        called.get_submodule(name).register_forward_hook(lambda *_: None)
    gradients = []
    for each in (plain, called):
        torch.manual_seed(5)
        loss, auxiliary = each.loss(TOKENS, TOKENS)
        (loss + auxiliary).backward()
        gradients.append({name: parameter.grad for name, parameter in each.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_pruned_layers_and_norms_take_effect() -> None:
    for name in ("layers.0.ffn.up.mu", "layers.1.mixer.norm", "layers.3.mixer.indexer.k_norm", "norm"):
        plain, pruned = model(), model()
        layer = pruned.get_submodule(name)
        prune.random_unstructured(layer, "weight", amount=0.5)
        with torch.no_grad():
            plain.get_submodule(name).weight.copy_(layer.weight)  # type: ignore[operator, union-attr, arg-type]
            torch.testing.assert_close(pruned(TOKENS), plain(TOKENS))
        assert not is_plain(layer, type(layer))


def test_a_projection_can_become_an_ordinary_linear_layer() -> None:
    """Neither a context nor a class of ours is asked for."""
    plain, other = model(), model()
    for name in ("layers.0.mixer.k", "layers.1.mixer.o", "layers.3.mixer.o", "layers.4.mixer.o"):
        old: Any = other.get_submodule(name)
        new = nn.Linear(old.in_features, old.out_features, bias=False)
        new.weight = old.weight
        swap(other, name, new)
    assert torch.equal(other(TOKENS), plain(TOKENS))


def test_siblings_of_a_replaced_projection_still_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from surgery.projections.hdpl.module import HDPL as Operator

    sizes: list[int] = []
    together = Operator.together

    def counted(siblings: Any, *rest: Any) -> Any:
        sizes.append(len(siblings))
        return together(siblings, *rest)

    monkeypatch.setattr(Operator, "together", staticmethod(counted))
    fused = model()
    fused(TOKENS)
    assert sizes[:2] == [2, 2]  # q and v, gate and up of the first layer
    sizes.clear()
    copy.deepcopy(fused)(TOKENS)
    assert sizes[:2] == [2, 2]
