"""HDPL siblings as a group: the numbers of each alone, every gradient exact, noise of its own everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.context import Context
from surgery.projections.dense.module import Dense
from surgery.projections.hdpl.group import GATHER_FROM
from surgery.projections.hdpl.kl import FREE_BITS, LN2
from surgery.projections.hdpl.latent import draw
from surgery.projections.hdpl.module import HDPL
from surgery.projections.siblings import project
from tests.models import architecture, build, context
from tests.surgery.philox import philox

FORMS = ("reference", "mean", "free_bits")


def make(
    d_in: int, d_out: int, blocks: int, rank: int, form: str, *, bias: bool, weight: float = 0.5
) -> HDPL:
    """Moved off its start, its latents so quiet that some tokens stay under the clamp of `reference`."""
    module = HDPL(d_in, d_out, blocks=blocks, rank=rank, kl_weight=weight, kl=form, bias=bias)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for encoder in (module.mu, module.logvar):
            encoder.weight.mul_(1.5 / (rank * d_in) ** 0.5)
            encoder.bias.mul_(0.3 / rank**0.5)
    return module


def reference(module: HDPL, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """(output, weighted KL), one block and one formula after the other."""
    slices = x.chunk(len(module.blocks), dim=-1)
    path = torch.cat([part @ block.T for part, block in zip(slices, module.blocks, strict=True)], dim=-1)
    mu = x @ module.mu.weight.T + module.mu.bias
    logvar = x @ module.logvar.weight.T + module.logvar.bias
    z = mu if noise is None else mu + noise * (0.5 * logvar).exp()
    y = path + F.silu(z) @ module.decoder.weight.T
    kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1)
    loss = {
        "reference": kl.sum(-1).clamp(max=LN2).mean(),
        "mean": kl.mean(),
        "free_bits": kl.mean(0).clamp(min=FREE_BITS).mean(),
    }[module.kl]
    return (y if module.bias is None else y + module.bias), module.kl_weight * loss


@st.composite
def groups(pick: st.DrawFn) -> tuple[int, int, list[dict[str, Any]]]:
    """(tokens, d_in, a module's arguments for each sibling or none where it is dense)."""
    tokens = pick(st.sampled_from((1, 2, 17, 70)))
    d_in = pick(st.sampled_from((4, 12, 64)))
    siblings = []
    for _ in range(pick(st.integers(1, 4))):
        blocks = pick(st.sampled_from([n for n in (1, 2, 4, 64) if d_in % n == 0]))
        siblings.append({
            "d_out": blocks * pick(st.integers(1, 5)), "blocks": blocks,
            "rank": pick(st.sampled_from((1, 8, 9, 40))), "form": pick(st.sampled_from(FORMS)),
            "bias": pick(st.booleans()), "weight": pick(st.sampled_from((0.5, 0.0))),
        })  # fmt: skip
    return tokens, d_in, siblings


@given(groups())
def test_outputs_losses_and_every_gradient(case: tuple[int, int, list[dict[str, Any]]]) -> None:
    tokens, d_in, siblings = case
    torch.manual_seed(0)
    modules = [make(d_in, **arguments).double() for arguments in siblings]
    x = torch.randn(tokens, d_in, dtype=torch.float64, requires_grad=True)
    here = context()
    torch.manual_seed(1)
    result = project(x, here, *modules)
    torch.manual_seed(1)
    noise = [torch.randn(tokens, len(m.mu.bias), dtype=torch.float64) for m in modules]
    pairs = [reference(m, x, eps) for m, eps in zip(modules, noise, strict=True)]
    losses = [loss for m, (_, loss) in zip(modules, pairs, strict=True) if m.kl_weight]
    assert len(here.losses) == bool(losses)  # one for all siblings
    wanted = [y for y, _ in pairs]
    mine, theirs = ([sum(of)] if losses else [] for of in (here.losses, losses))
    compare([*result, *mine], [*wanted, *theirs], [x, *nn.ModuleList(modules).parameters()])


def compare(result: list[Tensor], wanted: list[Tensor], leaves: list[Tensor]) -> None:
    """Values, and gradients under the same random weights."""
    for mine, theirs in zip(result, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    weights = [torch.randn_like(value) for value in wanted]
    gradients = [
        torch.autograd.grad(values, leaves, weights, allow_unused=True) for values in (result, wanted)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs)


@pytest.mark.parametrize("tokens", [1, 2049])
@pytest.mark.parametrize(("d", "blocks", "rank"), [(64, 64, 512), (64, 8, 64)])
def test_odd_sizes_in_single_precision(tokens: int, d: int, blocks: int, rank: int) -> None:
    modules = [make(d, 2 * d, blocks, rank, form, bias=False) for form in FORMS]
    x = torch.randn(tokens, d)
    here = context()
    torch.manual_seed(1)
    result = project(x, here, *modules)
    torch.manual_seed(1)
    noise = [torch.randn(tokens, rank).double() for _ in modules]
    total = torch.zeros((), dtype=torch.float64)
    for mine, module, eps in zip(result, modules, noise, strict=True):
        y, loss = reference(module.double(), x.double(), eps)
        torch.testing.assert_close(mine.double(), y, rtol=1e-4, atol=1e-4)
        total += loss
    torch.testing.assert_close(here.losses[0].double(), total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tokens", [3, GATHER_FROM])
@pytest.mark.parametrize("grad", [True, False])
def test_a_group_gives_the_numbers_of_each_alone(training: bool, tokens: int, grad: bool) -> None:
    """Also with a dense one among them, and with other sizes in each."""
    modules = [
        make(12, 24, 4, 5, "mean", bias=True),
        Dense(12, 8),
        make(12, 12, 2, 7, "reference", bias=False),
        make(12, 6, 1, 5, "free_bits", bias=False),
    ]
    x = torch.randn(2, tokens, 12)
    for module in modules:
        module.train(training)
    runs: list[tuple[list[Tensor], Context]] = []
    for together in (True, False):
        here = context()
        torch.manual_seed(3)
        with torch.set_grad_enabled(grad):
            ys = project(x, here, *modules) if together else [module(x, here) for module in modules]
        runs.append((ys, here))
    (mine, mine_context), (alone, alone_context) = runs
    torch.testing.assert_close(mine, alone)
    torch.testing.assert_close(sum(mine_context.losses), sum(alone_context.losses))
    if not training:
        for module, y in zip(modules, mine, strict=True):
            if isinstance(module, HDPL):
                torch.testing.assert_close(y, reference(module, x.flatten(0, 1), None)[0].view_as(y))


@pytest.mark.parametrize("grad", [True, False])
def test_evaluation_never_touches_logvar(grad: bool) -> None:
    modules = [make(12, 12, 2, 3, "mean", bias=False).eval() for _ in range(3)]
    with torch.no_grad():
        for module in modules:
            module.logvar.weight.fill_(torch.nan)
            module.logvar.bias.fill_(torch.nan)
    for tokens in (1, GATHER_FROM):
        with torch.set_grad_enabled(grad):
            assert all(y.isfinite().all() for y in project(torch.randn(tokens, 12), context(), *modules))


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_autocast_of_float32_weights(training: bool) -> None:
    """One rounding of weights and of results, sums in float32, gradients in float32."""
    modules = [make(32, 64, 4, 16, form, bias=True).train(training) for form in FORMS]
    x = torch.randn(40, 32, requires_grad=True)
    runs = []
    for cast in (True, False):
        here = context()
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            ys = project(x, here, *modules)
        assert all(y.dtype == (torch.bfloat16 if cast else torch.float32) for y in ys)
        assert all(loss.dtype == torch.float32 for loss in here.losses)
        leaves = [x, *(p for m in modules for name, p in m.named_parameters()
                       if training or not name.startswith("logvar"))]  # fmt: skip
        torch.manual_seed(6)
        total = sum((y.float() * torch.randn(y.shape)).sum() for y in ys) + sum(here.losses)
        runs.append([*ys, *torch.autograd.grad(total, leaves)])
    for mine, exact in zip(*runs, strict=True):
        assert (mine.float() - exact).norm() <= 0.02 * exact.norm() + 1e-3


def seen_noise(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    """The noise (tokens, rank) of every sibling of every group of a training pass, in order."""
    result: list[Tensor] = []

    def recording(tokens: int, ranks: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        noise = draw(tokens, ranks, dtype, device)
        result.extend(noise.split(ranks, dim=1))
        return noise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surgery.projections.hdpl.group.draw", recording)
        model(tokens)
    return result


def test_noise_is_fresh_for_each_layer_sibling_pass_and_step_and_comes_from_the_seed() -> None:
    rules = [{"match": "all", "operator": "hdpl", "blocks": 1, "rank": 16, "kl": "mean"}]
    model = build(architecture("FG", projections=rules, loops=2)).train()
    tokens = torch.randint(37, (2, 300))
    torch.manual_seed(0)
    steps = [seen_noise(model, tokens) for _ in range(2)]
    torch.manual_seed(0)
    for mine, again in zip(steps[0], seen_noise(model, tokens), strict=True):
        torch.testing.assert_close(mine, again, rtol=0, atol=0)
    every = [z for step in steps for z in step]
    assert len(every) == 2 * 2 * 2 * 7  # steps, passes, layers, projections
    flat = torch.stack([z.flatten() for z in every])
    correlations = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlations.abs().max() < 6 / flat.shape[1] ** 0.5
    for z in every:
        assert abs(z.mean()) < 5 / z.numel() ** 0.5
        assert abs(z.var() - 1) < 5 * (2 / z.numel()) ** 0.5
        assert (torch.corrcoef(z.T) - torch.eye(16)).abs().max() < 6 / len(z) ** 0.5  # latents
        assert (z[1:] * z[:-1]).mean().abs() < 6 / z.numel() ** 0.5  # tokens


def test_whoever_hooked_himself_to_a_projection_is_called() -> None:
    modules = [make(12, 12, 2, 3, "mean", bias=False) for _ in range(2)]
    seen: list[Tensor] = []
    modules[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(4, 12)
    project(x, context(), *modules)
    assert len(seen) == 1
    assert seen[0] is x


def test_groups_see_views_and_empty_inputs() -> None:
    modules = [make(12, 12, 2, 3, "mean", bias=False).eval() for _ in range(2)]
    x = torch.randn(12, 5, 4).transpose(0, 2)
    torch.testing.assert_close(project(x, context(), *modules), project(x.contiguous(), context(), *modules))
    assert project(x[:0], context(), *modules)[0].shape == (0, 5, 12)
    for module in modules:
        module.train()
    assert project(x[:0], context(), *modules)[0].shape == (0, 5, 12)


def test_compiled_it_is_the_same() -> None:
    """One operator in the compiler's eyes, whose gradient is one too."""
    modules = [make(12, 24, 4, 5, form, bias=form == "mean") for form in FORMS]
    x = torch.randn(17, 12, requires_grad=True)

    def run() -> list[Tensor]:
        here = context()
        return [*project(x, here, *modules), *here.losses]

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    runs = []
    for form in (run, compiled):
        torch.manual_seed(2)
        values = form()
        torch.manual_seed(3)
        weights = [torch.randn_like(value) for value in values]
        leaves = [x, *nn.ModuleList(modules).parameters()]
        runs.append([*values, *torch.autograd.grad(values, leaves, weights)])
    torch.testing.assert_close(runs[1], runs[0])


def test_philox_gives_the_published_words() -> None:
    """Known answers of Random123 (Salmon et al. 2011), for the generator that kernels are compared with."""
    ones, pi = (2**64 - 1, (2**32 - 1,) * 4), (
        0x299F31D0A4093822, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    )  # fmt: skip
    known = {
        (7, 0, (0, 0, 0, 0)): "5f6fb709 0d893f64 4f121f81 4f730a48",
        (7, *ones): "5207ddc2 45165e59 4d8ee751 8c52f662",
        (7, *pi): "4dfccaba 190a87f0 c47362ba b6b5242a",
        (10, 0, (0, 0, 0, 0)): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        (10, *ones): "408f276d 41c83b0e a20bc7c6 6d5451fd",
        (10, *pi): "d16cfe09 94fdcceb 5001e420 24126ea1",
    }
    for (rounds, key, counter), words in known.items():
        result = philox(key, [torch.tensor(word) for word in counter], rounds)
        assert " ".join(f"{int(word):08x}" for word in result) == words
