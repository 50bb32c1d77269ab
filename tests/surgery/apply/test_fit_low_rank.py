"""The fitted product of two thin matrices: no map of its rank has outputs nearer to the dense map's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from surgery.apply.fit import weight_error
from surgery.apply.pipeline import apply
from surgery.projections.low_rank.fit import fit_low_rank
from surgery.projections.low_rank.module import LowRank
from tests.surgery.apply.test_fit import correlated

sizes = pytest.mark.parametrize(("d_in", "d_out"), [(24, 24), (16, 40), (40, 16)])


def output_error(weight: Tensor, fitted: Tensor, x: Tensor) -> float:
    return float((x @ (weight - fitted).T).norm() / (x @ weight.T).norm())


def best_error(y: Tensor, rank: int) -> float:
    """No matrix of this rank is nearer to y (Eckart and Young): a bound for the outputs of every such map."""
    values = torch.linalg.svdvals(y.double())
    return float(values[rank:].norm() / values.norm())


@sizes
@pytest.mark.parametrize("rank", [1, 5, 16])
def test_no_map_of_this_rank_has_better_outputs(d_in: int, d_out: int, rank: int) -> None:
    weight, x = torch.randn(d_out, d_in), correlated(400, d_in)
    fitted = fit_low_rank(weight, x.T @ x / len(x), {"rank": rank})
    error = output_error(weight, fitted.weight, x)
    assert error == pytest.approx(best_error(x @ weight.T, rank), rel=1e-3, abs=2e-6)
    assert torch.linalg.matrix_rank(fitted.weight, rtol=1e-5) == rank


@sizes
def test_it_is_the_truncated_svd_of_the_whitened_weight(d_in: int, d_out: int) -> None:
    """SVD-LLM computes it with a Cholesky factor of the moments and its inverse."""
    weight, x = torch.randn(d_out, d_in), correlated(500, d_in)
    moments = x.T @ x / len(x)
    root = torch.linalg.cholesky(moments.double())
    u, s, v = torch.linalg.svd(weight.double() @ root)
    wanted = (u[:, :6] * s[:6]) @ v[:6] @ torch.linalg.inv(root)
    fitted = fit_low_rank(weight, moments, {"rank": 6}).weight
    torch.testing.assert_close(fitted.double(), wanted, atol=1e-4, rtol=1e-3)


@sizes
def test_without_a_text_it_is_the_svd_of_the_weight(d_in: int, d_out: int) -> None:
    weight = torch.randn(d_out, d_in)
    for moments in (None, torch.zeros(d_in, d_in)):
        fitted = fit_low_rank(weight, moments, {"rank": 5})
        assert weight_error(weight, fitted.weight) == pytest.approx(best_error(weight, 5), rel=1e-5)


def test_a_text_with_few_directions_is_fitted_exactly_and_says_nothing_about_the_others() -> None:
    weight, x = torch.randn(40, 32), torch.randn(6, 32)
    fitted = fit_low_rank(weight, x.T @ x / 6, {"rank": 16}).weight
    assert output_error(weight, fitted, x) < 1e-5
    outputs = torch.linalg.qr((x @ weight.T).T).Q  # the other ten directions are the best for the weight
    rest = weight - outputs @ outputs.T @ weight
    bound = best_error(rest, 10) * float(rest.norm() / weight.norm())
    assert weight_error(weight, fitted) == pytest.approx(bound, rel=2e-2)  # of moments in float32


def test_important_outputs_are_fitted_better() -> None:
    weight, x = torch.randn(48, 32), correlated(1000, 32)
    importance = torch.logspace(-1, 1, 48)
    fitted = fit_low_rank(weight, x.T @ x / len(x), {"rank": 8}, "full", importance).weight
    root = importance.sqrt()
    error = output_error(root[:, None] * weight, root[:, None] * fitted, x)
    assert error == pytest.approx(best_error(x @ weight.T * root, 8), rel=1e-3)


@sizes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_module_is_the_map_that_is_reported(d_in: int, d_out: int, dtype: torch.dtype) -> None:
    weight, x = torch.randn(d_out, d_in), correlated(200, d_in)
    fitted = fit_low_rank(weight, x.T @ x / len(x), {"rank": 7})
    module = LowRank(d_in, d_out, rank=7)
    module.load_state_dict(fitted.parameters)
    torch.testing.assert_close(module.encoder.weight.norm(dim=1), module.decoder.weight.norm(dim=0))
    y, wanted = module.to(dtype)(x.to(dtype)).detach().float(), x @ fitted.weight.T
    assert float((y - wanted).norm() / wanted.norm()) < (1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_a_weight_of_lower_rank_does_not_need_can_still_be_learned(rank: int) -> None:
    weight = torch.randn(8, rank) @ torch.randn(rank, 6)
    fitted = fit_low_rank(weight, None, {"rank": 2})
    torch.testing.assert_close(fitted.weight, weight, atol=1e-5, rtol=1e-5)
    assert (fitted.parameters["decoder.weight"].norm(dim=0) > 0.01).all()  # so that the encoder has gradients


def test_an_untrained_map_keeps_the_variance_of_its_inputs() -> None:
    x = torch.randn(500, 256)
    outputs = [LowRank(256, 512, rank=64)(x) for _ in range(8)]
    assert float(torch.stack(outputs).detach().var()) == pytest.approx(1.0, abs=0.1)


def test_from_a_checkpoint_to_a_verified_folder(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Every projection, with biases; in layer order, each at its best for what it is given."""
    folder = checkpoint("llama", attention_bias=True, mlp_bias=True)
    rules = [{"match": "all", "operator": "low_rank", "rank": 8}]
    text = [torch.randint(61, (40,)) for _ in range(8)]
    report = apply(folder, {"projections": rules}, tmp_path / "out", calibration=text)
    assert report.verification is not None
    assert report.verification.passed
    assert all(fit.output_error is not None and 0 < fit.output_error < 1 for fit in report.fits)
    assert {fit.operator for fit in report.fits} == {"low_rank r8"}
    assert "low_rank" in (tmp_path / "out" / "README.md").read_text()
    costs = {item.metric: item for item in report.plan.costs}
    assert costs["params"].after < costs["params"].before
