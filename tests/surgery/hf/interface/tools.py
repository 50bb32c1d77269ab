"""Rows: what torch does with any module."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from tests.surgery.hf.interface.cases import TOKENS, Case, close, linears
from tests.surgery.hf.interface.rows import Row

GROUP = "torch"
FACTOR = 1.5


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=TOKENS, use_cache=False).logits
    return result


def copied(case: Case) -> None:
    close(logits_of(copy.deepcopy(case.ours)), logits_of(case.ours), atol=0, rtol=0)
    buffer = io.BytesIO()
    torch.save(case.ours, buffer)
    buffer.seek(0)
    close(logits_of(torch.load(buffer, weights_only=False)), logits_of(case.ours), atol=0, rtol=0)


def state(case: Case) -> None:
    other = copy.deepcopy(case.ours)
    for parameter in other.parameters():
        parameter.data.zero_()
    for assign in (False, True):
        other.load_state_dict(case.ours.state_dict(), strict=True, assign=assign)
        close(logits_of(other), logits_of(case.ours), atol=0, rtol=0)


def moved(case: Case) -> None:
    case.same(lambda model: logits_of(model.double()))
    case.same(lambda model: logits_of(model.to("cpu", torch.float32)))


def half(case: Case) -> None:
    """Within the rounding of bfloat16, and bit for bit what the cast tensors give twice."""
    expected = logits_of(case.ours)
    case.same(lambda model: logits_of(model.bfloat16()).float(), atol=0.3, rtol=0.1)
    close(logits_of(case.ours).float(), expected, atol=0.5, rtol=0.2)


def autocast(case: Case) -> None:
    def run(model: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return logits_of(model).float()

    case.same(run, atol=0.3, rtol=0.1)
    close(run(case.ours), logits_of(case.ours), atol=0.5, rtol=0.2)


def compiled(case: Case) -> None:
    """Traced by Dynamo, and run by torch."""
    torch._dynamo.reset()
    close(logits_of(torch.compile(case.ours, backend="eager")), logits_of(case.ours))
    torch._dynamo.reset()


def functional(case: Case) -> None:
    scaled = {name: FACTOR * p for name, p in case.ours.named_parameters()}
    with torch.no_grad():
        result = torch.func.functional_call(case.ours, scaled, (TOKENS,), {"use_cache": False}).logits
        for parameter in case.ours.parameters():
            parameter.mul_(FACTOR)
    close(result, logits_of(case.ours))


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return FACTOR * weight


class Replaced(nn.Module):
    """Stands for an ordinary linear layer, as quantised ones do."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, FACTOR * self.inner.weight, self.inner.bias)


def hook(model: Any, name: str) -> None:
    model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: (FACTOR * inputs[0], *inputs[1:]))


def parametrized(model: Any, name: str) -> None:
    parametrize.register_parametrization(model.get_submodule(name), "weight", Scaled())


def replaced(model: Any, name: str) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, Replaced(model.get_submodule(name)))


def everywhere(change: Callable[[Any, str], None]) -> Any:
    """On every linear layer it is what the same factor on every weight is."""

    def check(case: Case) -> None:
        other = copy.deepcopy(case.ours)
        for name, layer in linears(other).items():
            change(case.ours, name)
            layer.weight.data.mul_(FACTOR)
        close(logits_of(case.ours), logits_of(other))
        torch.manual_seed(4)
        expected = other.train()(TOKENS, labels=TOKENS).loss
        torch.manual_seed(4)
        close(case.ours.train()(TOKENS, labels=TOKENS).loss, expected)

    return check


def pruned(case: Case) -> None:
    other = copy.deepcopy(case.ours)
    for name, layer in linears(case.ours).items():
        prune.random_unstructured(layer, "weight", amount=0.5)
        linears(other)[name].weight.data.copy_(layer.weight)
    close(logits_of(case.ours), logits_of(other))


ROWS = [
    Row(GROUP, "deepcopy, torch.save", copied, "logits, bit for bit"),
    Row(GROUP, "state_dict, load_state_dict", state, "logits, bit for bit"),
    Row(GROUP, ".to, .double", moved, "logits"),
    Row(GROUP, ".bfloat16", half, "logits within the rounding of bfloat16"),
    Row(GROUP, "autocast", autocast, "logits within the rounding of bfloat16"),
    Row(GROUP, "torch.compile", compiled, "logits, traced and run by torch"),
    Row(GROUP, "torch.func.functional_call", functional, "logits by the tensors that were given"),
    Row(GROUP, "forward hooks", everywhere(hook), "logits and loss of larger weights"),
    Row(GROUP, "torch.nn.utils.parametrize", everywhere(parametrized), "logits and loss of larger weights"),
    Row(GROUP, "replaced linear layers", everywhere(replaced), "logits and loss of larger weights"),
    Row(GROUP, "torch.nn.utils.prune", pruned, "logits of the pruned weights"),
]  # fmt: skip
