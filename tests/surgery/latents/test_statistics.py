"""Statistics of latents against numpy, closed forms and the formulas of the papers written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from surgery.latents.projections import Latent
from surgery.latents.recording import recording
from surgery.latents.statistics import Moments, Statistics, effective_rank
from surgery.model import HybridLM
from tests.models import architecture, build

HERE = Latent(0, "gate")


def of(mu: Tensor, logvar: Tensor | None = None, parts: int = 1) -> Statistics:
    moments = Moments(mu.shape[1])
    logvar = torch.zeros_like(mu) if logvar is None else logvar
    for some, widths in zip(mu.chunk(parts), logvar.chunk(parts), strict=True):
        moments.add(some, widths)
    return Statistics.of(HERE, moments)


def with_covariance(values: list[float]) -> Tensor:
    """Tokens whose covariance is exactly this diagonal in a rotated basis, around a mean of 3."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * len(values))
    rotation, _ = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=torch.manual_seed(1)).double()
    )
    return (signs * torch.tensor(values, dtype=torch.float64).sqrt()) @ rotation.T + 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4.0),
        ([2.0, 0.0, 0.0, 0.0], 1.0),
        ([0.0, 0.0, 0.0, 0.0], 0.0),
        ([5.0, 5.0, 0.0, 0.0], 2.0),
        ([0.5, 0.25, 0.125, 0.125], 2**1.75),  # an entropy of 1.75 bits
    ],
)
def test_the_effective_rank_of_a_known_covariance(values: list[float], expected: float) -> None:
    assert of(with_covariance(values)).effective_rank == pytest.approx(expected, abs=1e-6)
    assert effective_rank(torch.diag(torch.tensor(values)).double()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("parts", [1, 3, 40])
def test_moments_are_numpys_whatever_the_batches(parts: int) -> None:
    torch.manual_seed(0)
    mu = torch.randn(120, 6).double() @ torch.randn(6, 6).double() + 1000  # the variance is a millionth
    result = of(mu, parts=parts)
    covariance = np.cov(mu.numpy().T, bias=True)
    assert result.tokens == 120
    torch.testing.assert_close(result.mean, mu.mean(0))
    torch.testing.assert_close(result.variance, torch.from_numpy(covariance.diagonal().copy()))
    shares = np.linalg.eigvalsh(covariance) / covariance.trace()
    assert result.effective_rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


def test_the_kl_is_that_of_torchs_distributions() -> None:
    torch.manual_seed(0)
    mu, logvar = torch.randn(50, 5).double(), torch.randn(50, 5).double()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mu, (logvar / 2).exp()), normal(torch.zeros_like(mu), torch.ones_like(mu))
    )
    torch.testing.assert_close(of(mu, logvar, parts=4).kl, expected.mean(0))


def test_dead_units_are_those_that_hardly_vary() -> None:
    signs = torch.tensor([[-1.0], [1.0]]).repeat(8, 1).double()
    mu = signs * torch.tensor([1.0, 0.09, 0.11, 0.0]) + torch.tensor([0.0, 7.0, 0.0, 2.0])
    result = of(mu)
    assert result.dead() == [1, 3]  # variances 1, 0.0081, 0.0121 and 0
    assert result.dead(0.02) == [1, 2, 3]
    assert result.dead(0.0) == [3]


@pytest.mark.parametrize("loops", [1, 2])
def test_what_is_read_is_mu_of_the_layers_input(loops: int) -> None:
    """Each layer's input, normed, times the encoder's weights, written out; every pass of a loop counts."""
    torch.manual_seed(0)
    rule = {"match": ["q", "gate"], "operator": "hdpl", "blocks": 2, "rank": 3}
    model = build(architecture("FG", projections=[rule], loops=loops))
    tokens = torch.randint(0, 37, (3, 9))
    states: list[Tensor] = []
    with torch.no_grad():
        before = model(tokens, states=states)
        with recording(model) as moments:
            during = model(tokens)
    torch.testing.assert_close(during, before)
    assert torch.equal(model(tokens), before)
    assert sorted(map(str, moments)) == [f"layers.{n}.{name}" for n in (0, 1) for name in ("gate", "q")]
    for index in (0, 1):
        layer = model.layers[index]
        x = torch.cat([layer.mixer_norm(h).flatten(0, 1) for h in states[index::2]]).double()
        mu = x @ layer.mixer.q.mu.weight.double().T + layer.mixer.q.mu.bias.double()
        read = Statistics.of(Latent(index, "q"), moments[Latent(index, "q")])
        assert read.tokens == loops * 27
        torch.testing.assert_close(read.mean, mu.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(read.variance, mu.var(0, correction=0), rtol=1e-3, atol=1e-6)


def test_a_dense_model_has_no_latents() -> None:
    model = HybridLM(architecture("F"))
    with pytest.raises(ValueError, match="no HDPL projections"), recording(model):
        pass
