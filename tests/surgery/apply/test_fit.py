"""HDPL fitted to a dense weight: exact through its nonlinear latent, never worse by another step, better in
the metric of the activations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.apply.execute import execute
from surgery.apply.fit import check_form, check_operators, fitter_of, weight_error
from surgery.apply.importance import row_importance
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.config.problems import UserError
from surgery.projections import PROJECTION_OPERATORS
from surgery.projections.hdpl import HDPLSpec, fit
from surgery.projections.hdpl.fit import fit_hdpl
from surgery.projections.hdpl.module import HDPL
from tests.models import architecture

OPTIONS: dict[str, Any] = {"blocks": 4, "rank": 8, "kl_weight": 1e-3, "kl": "mean"}


def errors(weight: Tensor, fitted: Tensor, moments: Tensor | None) -> tuple[float, float | None]:
    """(relative weight error, relative output error of the linear map for inputs with these moments)."""

    def energy(matrix: Tensor) -> float:
        return float(((matrix @ moments) * matrix).sum())

    of_output = None if moments is None else (energy(weight - fitted) / energy(weight)) ** 0.5
    return weight_error(weight, fitted), of_output


def correlated(tokens: int, size: int) -> Tensor:
    """Activations with a spectrum that falls off, as real ones have."""
    mix = torch.linalg.qr(torch.randn(size, size)).Q * torch.logspace(0.5, -1.5, size)
    return torch.randn(tokens, size) @ mix.T


def module(parameters: dict[str, Tensor], d_in: int, d_out: int, **options: Any) -> HDPL:
    built = HDPL(d_in, d_out, **{**OPTIONS, **options})
    built.load_state_dict(parameters)
    return built.eval()


@pytest.mark.parametrize(("d_in", "d_out"), [(24, 24), (16, 40), (40, 16)])
@pytest.mark.parametrize("rank", [1, 2, 7, 8])
@pytest.mark.parametrize("calibrated", [False, True])
def test_pairs_are_the_linear_map_they_report(d_in: int, d_out: int, rank: int, calibrated: bool) -> None:
    weight, x = torch.randn(d_out, d_in), correlated(400, d_in)
    moments = x.T @ x / len(x) if calibrated else None
    fitted = fit_hdpl(weight, moments, {**OPTIONS, "rank": rank}, "paired")
    built = module(fitted.parameters, d_in, d_out, rank=rank)
    torch.testing.assert_close(built(x), x @ fitted.weight.T, atol=1e-4, rtol=1e-4)
    if not calibrated:  # the size of the inputs is unknown, so that only pairs are safe
        torch.testing.assert_close(fit_hdpl(weight, None, {**OPTIONS, "rank": rank}).weight, fitted.weight)


@pytest.mark.parametrize(("d_in", "d_out"), [(64, 96), (96, 64)])
@pytest.mark.parametrize("size", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_latents_carry_the_map(d_in: int, d_out: int, size: float, dtype: torch.dtype) -> None:
    """Within 3 % of truncated singular values, which only ignore that blocks and low-rank part interact."""
    weight, rank, count = torch.randn(d_out, d_in), 24, OPTIONS["blocks"]
    x, unseen = (size * sample for sample in correlated(4000, d_in).split(2000))
    fitted = fit_hdpl(weight, x.T @ x / len(x), {**OPTIONS, "rank": rank})
    built = module(fitted.parameters, d_in, d_out, rank=rank).to(dtype)
    y = unseen @ weight.T
    measured = float((built(unseen.to(dtype)).detach().float() - y).norm() / y.norm())

    parts = zip(x.chunk(count, dim=1), (x @ weight.T).chunk(count, dim=1), strict=True)
    rest = torch.cat([out - part @ torch.linalg.lstsq(part, out).solution for part, out in parts], dim=1)
    bound = float(torch.linalg.svdvals(rest)[rank:].norm() / (x @ weight.T).norm())
    assert measured < 1.03 * bound
    paired = fit_hdpl(weight, x.T @ x / len(x), {**OPTIONS, "rank": rank}, "paired")
    assert measured < 0.9 * float((unseen @ paired.weight.T - y).norm() / y.norm())


@pytest.mark.parametrize("calibrated", [False, True])
def test_no_step_makes_it_worse(calibrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.randn(48, 32), correlated(500, 32)
    moments = x.T @ x / len(x)
    damped = moments + fit.DAMPING * moments.diagonal().mean() * torch.eye(32)
    result = []
    monkeypatch.setattr(fit, "TOLERANCE", -1.0)
    for steps in range(1, 25):
        monkeypatch.setattr(fit, "MAX_STEPS", steps)
        fitted = fit_hdpl(weight, moments if calibrated else None, OPTIONS)
        assert fitted.steps == steps
        of_weight, of_output = errors(weight, fitted.weight, damped)
        result.append(of_output if calibrated else of_weight)
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(result)), result
    assert result[-1] < result[0]


def test_a_map_of_its_own_form_is_found_again() -> None:
    blocks = [torch.randn(6, 8) for _ in range(4)]
    weight = torch.block_diag(*blocks) + torch.randn(24, 4) @ torch.randn(4, 32)
    assert errors(weight, fit_hdpl(weight, None, OPTIONS).weight, None)[0] < 0.02
    assert errors(weight, fit_hdpl(weight, None, {**OPTIONS, "rank": 64}).weight, None)[0] < 1e-4


def test_activations_decide_what_is_worth_fitting() -> None:
    weight, x = torch.randn(64, 48), correlated(2000, 48)
    moments = x.T @ x / len(x)
    plain = errors(weight, fit_hdpl(weight, None, OPTIONS).weight, moments)
    aware = errors(weight, fit_hdpl(weight, moments, OPTIONS).weight, moments)
    assert plain[1] is not None
    assert aware[1] is not None
    assert aware[1] < 0.7 * plain[1]
    assert plain[0] <= aware[0]
    y = x @ weight.T
    difference = y - x @ fit_hdpl(weight, moments, OPTIONS).weight.T
    assert aware[1] == pytest.approx(float(difference.norm() / y.norm()), rel=1e-3)


@pytest.mark.parametrize(("form", "size"), [("full", fit.SMALL), ("paired", 1.0)])
def test_noise_of_training_starts_small(form: str, size: float) -> None:
    weight, x = torch.randn(48, 32), correlated(1000, 32)
    fitted = fit_hdpl(weight, x.T @ x / len(x), OPTIONS, form)
    built = module(fitted.parameters, 32, 48)
    with torch.no_grad():
        steady, latent = built(x), built.mu(x)
        noisy = built.train()(x)
    assert float((noisy - steady).norm() / steady.norm()) < 0.05
    assert float(latent.square().mean().sqrt()) == pytest.approx(size, rel=0.1)


def test_moments_that_say_nothing_are_not_used() -> None:
    weight = torch.randn(16, 16)
    nothing = fit_hdpl(weight, torch.zeros(16, 16), OPTIONS)
    assert torch.isfinite(nothing.weight).all()
    rank_one = torch.ones(16, 16)
    assert torch.isfinite(fit_hdpl(weight, rank_one, OPTIONS).weight).all()


def test_operators_without_a_way_from_dense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"match": "up", "operator": "hdpl", "blocks": 2, "rank": 4}]
    check_operators(architecture(projections=rules))
    monkeypatch.setattr(HDPLSpec, "fitter", None)
    with pytest.raises(UserError, match="hdpl"):
        check_operators(architecture(projections=rules))


def test_every_operator_that_is_not_dense_can_be_fitted() -> None:
    for name in PROJECTION_OPERATORS.keys() - {"dense"}:
        assert callable(fitter_of(name))


def test_importance_is_the_gradient_of_the_feed_forward_output() -> None:
    """Against autograd: the mean over tokens of the squared column of the Jacobian of down(silu(g) u)."""
    weights = {"gate": torch.randn(12, 8), "up": torch.randn(12, 8), "down": torch.randn(8, 12)}
    x = torch.randn(50, 8)
    computed = row_importance([x[:20], x[20:]], weights)

    def output(gate: Tensor, up: Tensor) -> Tensor:
        return weights["down"] @ (torch.nn.functional.silu(gate) * up)

    for index, name in enumerate(("gate", "up")):
        jacobian = torch.func.vmap(torch.func.jacrev(output, argnums=index))(
            x @ weights["gate"].T, x @ weights["up"].T
        )
        torch.testing.assert_close(computed[name], jacobian.square().sum(1).mean(0))


def test_important_outputs_are_fitted_better() -> None:
    weight, x = torch.randn(48, 32), correlated(1000, 32)
    moments, importance = x.T @ x / len(x), torch.logspace(-2, 2, 48)

    def weighted_error(fitted: Tensor) -> float:
        return float((((weight - fitted) @ x.T).square().mean(1) * importance).sum())

    plain = fit_hdpl(weight, moments, OPTIONS)
    weighted = fit_hdpl(weight, moments, OPTIONS, "full", importance)
    assert weighted_error(weighted.weight) < 0.8 * weighted_error(plain.weight)
    scaled = fit_hdpl(weight, moments, OPTIONS, "full", torch.full((48,), 7.0))
    torch.testing.assert_close(scaled.weight, plain.weight)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(UserError, match=r"hdpl_fit.*full, paired"):
        check_form("half")


@pytest.mark.parametrize("form", ["full", "paired"])
def test_reported_errors_are_those_of_the_operators(checkpoint: Callable[..., Path], form: str) -> None:
    source = read_source(checkpoint("llama", attention_bias=True, mlp_bias=True))
    sequences = [torch.randint(61, (40,)) for _ in range(8)]
    rules = [{"match": ["q", "gate", "up", "down"], "operator": "hdpl", "blocks": 2, "rank": 6}]
    model, reports = execute(
        source, plan(source, {"projections": rules}), calibration=sequences, hdpl_fit=form
    )
    measured: dict[tuple[int, str], float] = {}

    def hook(key: tuple[int, str], weight: Tensor) -> Callable[..., None]:
        def compare(part: HDPL, inputs: tuple[Tensor], _: Tensor) -> None:
            y = inputs[0] @ weight.T
            measured[key] = float((part.forward(inputs[0]) - part.bias - y).norm() / y.norm())

        return compare

    for layer, name in {(report.layer, report.projection) for report in reports}:
        part = "self_attn" if name == "q" else "mlp"
        weight = source.tensor(f"model.layers.{layer}.{part}.{name}_proj.weight")
        block = model.layers[layer]
        owner = block.mixer if name == "q" else block.ffn
        owner.get_submodule(name).register_forward_hook(hook((layer, name), weight))
    with torch.no_grad():
        model(torch.stack(sequences))
    assert len(measured) == len(reports) == 16
    for report in reports:
        assert report.output_error == pytest.approx(measured[report.layer, report.projection], rel=1e-3)
