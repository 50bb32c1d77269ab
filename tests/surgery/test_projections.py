"""The contract of every projection operator; a new one is covered by its line in the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from surgery.projections import PROJECTION_OPERATORS
from tests.models import context
from tests.strategies import operator_options

SIZES = [(1, 1), (5, 7), (7, 5), (9, 15), (12, 12), (8, 24), (33, 11)]
# Parameters that rightly get no gradient: what evaluation doesn't use.
IDLE_IN_EVALUATION = {"hdpl": {"logvar.weight", "logvar.bias"}}

Build = Callable[..., nn.Module]


def cases() -> list[Any]:
    """Every operator at every size, each with a spread of its options and both with and without bias."""
    result = []
    for name in PROJECTION_OPERATORS:
        for d_in, d_out in SIZES:
            fitting = operator_options(name, [(d_in, d_out)])
            assert fitting, f"{name} has no options for {d_in} -> {d_out}"
            chosen = fitting[:: max(1, len(fitting) // 4)][:5]
            for index, options in enumerate(chosen):
                bias = index % 2 == 1 or (len(chosen) == 1 and d_in % 2 == 1)
                label = "-".join(str(value) for value in options.values())
                result.append(pytest.param(
                    name, d_in, d_out, bias, options, id=f"{name}-{d_in}x{d_out}-{'bias-' * bias}{label}"
                ))  # fmt: skip
    return result


every_case = pytest.mark.parametrize(("name", "d_in", "d_out", "bias", "options"), cases())


def build(name: str, d_in: int, d_out: int, bias: bool, options: dict[str, Any]) -> nn.Module:
    """The module with every parameter moved off its starting value, so that zeros hide nothing."""
    module = PROJECTION_OPERATORS[name].build(d_in, d_out, bias, options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module


@every_case
def test_parameters_are_those_announced(
    name: str, d_in: int, d_out: int, bias: bool, options: dict[str, Any]
) -> None:
    spec = PROJECTION_OPERATORS[name]
    module = build(name, d_in, d_out, bias, options)
    counted = sum(parameter.numel() for parameter in module.parameters())
    assert counted == spec.params(d_in, d_out, options) + (d_out if bias else 0)
    assert list(module.buffers()) == []


@every_case
@pytest.mark.parametrize("training", [False, True])
def test_flops_are_those_announced(
    name: str, d_in: int, d_out: int, bias: bool, options: dict[str, Any], training: bool
) -> None:
    module = build(name, d_in, d_out, bias, options).train(training)
    for shape in ((1, 1), (2, 3)):
        with FlopCounterMode(display=False) as counter:
            module(torch.randn(*shape, d_in), context())
        announced = PROJECTION_OPERATORS[name].flops(d_in, d_out, options, training=training)
        assert counter.get_total_flops() == announced * shape[0] * shape[1]


@every_case
def test_evaluation_is_a_function_of_each_token_alone(
    name: str, d_in: int, d_out: int, bias: bool, options: dict[str, Any]
) -> None:
    module = build(name, d_in, d_out, bias, options).eval()
    x = torch.randn(6, 4, d_in)
    y = module(x, context())
    assert y.shape == (6, 4, d_out)
    torch.testing.assert_close(module(x, context()), y, rtol=0, atol=0)
    order = torch.randperm(6)
    torch.testing.assert_close(module(x[order], context()), y[order])
    torch.testing.assert_close(module(x[2, 1], context()), y[2, 1])  # no leading dimension
    torch.testing.assert_close(module(x.flatten(0, 1), context()), y.flatten(0, 1))
    torch.testing.assert_close(module(x[None], context()), y[None])
    torch.testing.assert_close(module(x.transpose(0, 1), context()), y.transpose(0, 1))  # not contiguous
    assert module(x[:, :0], context()).shape == (6, 0, d_out)
    torch.testing.assert_close(module(x), y)  # the context is optional


@every_case
def test_training_is_reproducible_and_reaches_every_parameter(
    name: str, d_in: int, d_out: int, bias: bool, options: dict[str, Any]
) -> None:
    module = build(name, d_in, d_out, bias, options)
    x = torch.randn(3, 4, d_in, requires_grad=True)
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        here = context()
        outputs.append(module.train()(x, here))
        assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in here.losses)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    for training in (True, False):
        module.zero_grad()
        module.train(training)(x, context()).square().sum().backward()
        idle = set() if training else IDLE_IN_EVALUATION.get(name, set())
        reached = {
            key for key, parameter in module.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }  # fmt: skip
        assert reached == {key for key, _ in module.named_parameters()} - idle
    assert x.grad is not None
    assert x.grad.any()


@every_case
def test_bfloat16(name: str, d_in: int, d_out: int, bias: bool, options: dict[str, Any]) -> None:
    module = build(name, d_in, d_out, bias, options)
    x = torch.randn(3, 4, d_in)
    exact = module.eval()(x, context())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = module(x, context())
        here = context()
        module.train()(x, here)
        assert all(loss.dtype == torch.float32 for loss in here.losses)
    half = module.eval().bfloat16()(x.bfloat16(), context())
    for y in (cast, half):
        assert y.dtype == torch.bfloat16
        assert (y.float() - exact).norm() <= 0.03 * exact.norm() + 0.03


@every_case
def test_state_survives_saving(name: str, d_in: int, d_out: int, bias: bool, options: dict[str, Any]) -> None:
    module = build(name, d_in, d_out, bias, options).eval()
    other = PROJECTION_OPERATORS[name].build(d_in, d_out, bias, options).eval()
    other.load_state_dict(module.state_dict(), strict=True)
    x = torch.randn(3, d_in)
    torch.testing.assert_close(other(x), module(x), rtol=0, atol=0)
    assert ("bias" in module.state_dict()) == bias


def gradcheck_cases() -> list[Any]:
    return [case for case in cases() if case.values[1:3] in ((5, 7), (12, 12))]


@pytest.mark.parametrize(("name", "d_in", "d_out", "bias", "options"), gradcheck_cases())
@pytest.mark.parametrize("training", [False, True])
def test_gradients_in_double_precision(
    name: str, d_in: int, d_out: int, bias: bool, options: dict[str, Any], training: bool
) -> None:
    module = build(name, d_in, d_out, bias, options).double().train(training)
    names = [key for key, _ in module.named_parameters()]
    values = [parameter.detach().requires_grad_() for parameter in module.parameters()]

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(3)  # the same noise at every call
        here = context()
        y = functional_call(module, dict(zip(names, parameters, strict=True)), (x, here))
        return (y, *here.losses)

    x = torch.randn(2, d_in, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


@pytest.mark.parametrize("name", PROJECTION_OPERATORS)
def test_registered_under_its_own_name_with_readable_options(name: str) -> None:
    spec = PROJECTION_OPERATORS[name]
    assert spec.name == name
    for options in operator_options(name, [(12, 12)]):
        assert "\n" not in spec.short(options)
        assert len(spec.short(options)) < 40
        assert spec.canonical(spec.canonical(options)) == spec.canonical(options)
        assert set(spec.canonical(options)) == set(spec.options)
