"""HDPL against the paper's equations, written out slowly and on their own (arXiv 2602.07070)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from surgery.projections.hdpl import DEAD_RANK, HDPLSpec
from surgery.projections.hdpl.kl import FORMS, FREE_BITS, LN2, Terms
from surgery.projections.hdpl.latent import sample_plainly
from surgery.projections.hdpl.module import HDPL
from tests.models import context

SHAPES = [(16, 16, 4, 8), (16, 48, 8, 5), (30, 12, 3, 7), (64, 64, 8, 64), (5, 5, 1, 1), (6, 9, 3, 2)]


class PaperHDPL:
    """The equations as the paper's code computes them: a grouped 1x1 convolution beside a variational
    bottleneck; KL summed over latents, capped at ln 2 (0.693) a token, averaged, times beta."""

    def __init__(self, module: HDPL, beta: float) -> None:
        count, rows, columns = module.blocks.shape
        self.beta, self.groups = beta, count
        self.kernel = module.blocks.detach().reshape(count * rows, columns, 1).clone().requires_grad_()
        self.weights = {
            key: value.detach().clone().requires_grad_()
            for key, value in module.named_parameters() if key != "blocks"
        }  # fmt: skip

    def __call__(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        w = self.weights
        tokens = x.reshape(-1, x.shape[-1])
        path = torch.nn.functional.conv1d(tokens[:, :, None], self.kernel, groups=self.groups)[:, :, 0]
        mu = tokens @ w["mu.weight"].T + w["mu.bias"]
        logvar = tokens @ w["logvar.weight"].T + w["logvar.bias"]
        z = mu if noise is None else mu + noise.reshape(mu.shape) * torch.exp(logvar / 2)
        y = path + (z / (1 + torch.exp(-z))) @ w["decoder.weight"].T
        if "bias" in w:
            y = y + w["bias"]
        kl = 0.5 * (mu**2 + torch.exp(logvar) - logvar - 1).sum(-1)
        loss = torch.clamp(kl, max=0.693).mean() * self.beta
        return y.reshape(*x.shape[:-1], -1), loss


def make(
    d_in: int,
    d_out: int,
    blocks: int,
    rank: int,
    *,
    kl: str = "reference",
    beta: float = 0.5,
    bias: bool = False,
    spread: float = 0.2,
) -> HDPL:
    module = HDPL(d_in, d_out, blocks=blocks, rank=rank, kl_weight=beta, kl=kl, bias=bias)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    return module


@pytest.mark.parametrize(("d_in", "d_out", "blocks", "rank"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_paper(d_in: int, d_out: int, blocks: int, rank: int, bias: bool, training: bool) -> None:
    module = make(d_in, d_out, blocks, rank, bias=bias).train(training)
    x = torch.randn(3, 5, d_in, requires_grad=True)
    x_paper = x.detach().clone().requires_grad_()
    torch.manual_seed(11)
    here = context()
    y = module(x, here)
    torch.manual_seed(11)
    noise = torch.randn(3, 5, rank) if training else None
    paper = PaperHDPL(module, beta=0.5)
    y_paper, loss_paper = paper(x_paper, noise)
    torch.testing.assert_close(y, y_paper, rtol=1e-5, atol=1e-5)

    assert len(here.losses) == int(training)
    weight = torch.randn_like(y)
    (y * weight).sum().add(sum(here.losses)).backward()
    ((y_paper * weight).sum() + (loss_paper if training else 0)).backward()
    if training:
        torch.testing.assert_close(here.losses[0], loss_paper, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad, x_paper.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        module.blocks.grad.flatten(), paper.kernel.grad.flatten(), rtol=1e-5, atol=1e-5
    )
    for key, parameter in module.named_parameters():
        if key != "blocks":
            expected = paper.weights[key].grad
            assert (parameter.grad is None) == (expected is None), key
            if expected is not None:
                torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-5)


def test_a_weak_latent_is_below_the_clamp_and_its_loss_is_live() -> None:
    module = make(8, 8, 2, 2, spread=0.0).train()
    with torch.no_grad():
        for encoder in (module.mu, module.logvar):
            encoder.weight.mul_(0.05)
            encoder.bias.mul_(0.05)
    here = context()
    module(torch.randn(20, 8), here)
    here.losses[0].backward()
    assert 0 < here.losses[0] < 0.5 * LN2
    assert module.mu.weight.grad.any()


def kl_of(mu: Tensor, logvar: Tensor, form: str) -> Tensor:
    """The loss of latents (*batch, rank), as the module takes it."""
    latents = torch.cat((mu, logvar), dim=-1).reshape(-1, 2 * mu.shape[-1])
    noise = torch.zeros(len(latents), mu.shape[-1])
    return sample_plainly(latents, noise, [mu.shape[-1]], Terms([FORMS[form]], [1.0]))[1]


def auxiliary_gradients(kl: str, rank: int) -> tuple[float, float]:
    """(loss, largest gradient of the encoders) of the auxiliary loss alone, at initialisation."""
    module = HDPL(256, 256, blocks=8, rank=rank, kl_weight=1e-3, kl=kl).train()
    here = context()
    module(torch.randn(64, 256), here)
    here.losses[0].backward()
    gradients = [
        p.grad.abs().max().item() for p in (module.mu.weight, module.logvar.weight, module.logvar.bias)
    ]
    return here.losses[0].item(), max(gradients)


@pytest.mark.parametrize("rank", [64, 128])
def test_the_reference_loss_is_a_constant_without_gradient_at_usual_ranks(rank: int) -> None:
    loss, gradient = auxiliary_gradients("reference", rank)
    assert loss == pytest.approx(1e-3 * 0.693, rel=1e-6)
    assert gradient == 0.0
    options = {"blocks": 8, "rank": rank, "kl_weight": 1e-3}
    assert rank >= DEAD_RANK
    assert "no effect" in HDPLSpec().warning({**options, "kl": "reference"})
    assert HDPLSpec().warning({**options, "kl": "mean"}) == ""


@pytest.mark.parametrize("rank", [16, 64, 128])
@pytest.mark.parametrize("kl", ["mean", "free_bits"])
def test_the_other_forms_are_live(kl: str, rank: int) -> None:
    loss, gradient = auxiliary_gradients(kl, rank)
    assert loss > 0
    assert gradient > 0


@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 5)])
def test_forms_equal_the_closed_form_of_torch(shape: tuple[int, ...]) -> None:
    mu, logvar = torch.randn(shape), torch.randn(shape)
    exact = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    by_latent = exact.reshape(-1, shape[-1])
    expected = {
        "reference": by_latent.sum(-1).clamp(max=0.693).mean(),
        "mean": by_latent.mean(),
        "free_bits": torch.stack([latent.mean().clamp(min=FREE_BITS) for latent in by_latent.T]).mean(),
    }
    for form, value in expected.items():
        torch.testing.assert_close(kl_of(mu, logvar, form), value, rtol=1e-5, atol=1e-6)


def test_free_bits_leaves_quiet_latents_alone() -> None:
    mu = torch.tensor([[0.1, 2.0], [-0.1, 2.0]], requires_grad=True)  # KL 0.005 and 2 nats a latent
    kl_of(mu, torch.zeros(2, 2), "free_bits").backward()
    assert mu.grad is not None
    assert mu.grad[:, 0].tolist() == [0.0, 0.0]
    assert (mu.grad[:, 1] > 0).all()


def test_low_precision_is_summed_in_float32() -> None:
    mu = torch.full((4, 512), 0.01, dtype=torch.bfloat16)
    loss = kl_of(mu, torch.zeros_like(mu), "mean")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.5 * mu[0, 0].float().item() ** 2, rel=1e-3)


@pytest.mark.parametrize("blocks", [1, 4, 8])
def test_starts_as_an_identity_on_every_block(blocks: int) -> None:
    module = HDPL(64, 64, blocks=blocks, rank=4, kl_weight=0.0, kl="mean")
    noise = module.blocks - torch.eye(64 // blocks)
    assert noise.abs().max() < 0.06
    assert 0.008 < noise.std() < 0.012


@pytest.mark.parametrize(("d_in", "d_out", "blocks"), [(512, 2048, 8), (256, 64, 4), (512, 32, 2)])
def test_blocks_that_are_not_square_start_as_wide_as_a_dense_map(d_in: int, d_out: int, blocks: int) -> None:
    module = HDPL(d_in, d_out, blocks=blocks, rank=4, kl_weight=0.0, kl="mean")
    inputs = torch.randn(4096, blocks, d_in // blocks)
    outputs = torch.einsum("tni,noi->tno", inputs, module.blocks)
    assert outputs.square().mean().item() == pytest.approx(1.0, rel=0.05)


def test_starts_as_the_paper_says() -> None:
    module = HDPL(64, 32, blocks=8, rank=16, kl_weight=0.0, kl="mean", bias=True)
    assert not module.logvar.weight.any()
    torch.testing.assert_close(module.mu.weight @ module.mu.weight.T, torch.eye(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        module.decoder.weight.T @ module.decoder.weight, torch.eye(16), atol=1e-5, rtol=0
    )
    assert module.decoder.bias is None
    assert not module.bias.any()
    for encoder in (module.mu, module.logvar):
        assert encoder.bias.abs().max() <= 1 / math.sqrt(64)
        assert encoder.bias.any()


def test_no_auxiliary_loss_without_weight_or_in_evaluation() -> None:
    here = context()
    make(8, 8, 2, 3, beta=0.0).train()(torch.randn(2, 8), here)
    make(8, 8, 2, 3).eval()(torch.randn(2, 8), here)
    assert here.losses == []


@pytest.mark.parametrize(
    ("d_in", "d_out", "blocks", "lower"), [(16, 24, 5, 4), (7, 9, 4, 1), (12, 12, 24, 12)]
)
def test_blocks_that_do_not_divide_are_refused_with_the_next_that_do(
    d_in: int, d_out: int, blocks: int, lower: int
) -> None:
    option, rule = HDPLSpec().broken_rule(d_in, d_out, {"blocks": blocks}) or ("", "")
    assert option == "blocks"
    assert rule == f"must divide both {d_in} and {d_out}; the next lower divisor is {lower}"
    with pytest.raises(AssertionError):
        HDPL(d_in, d_out, blocks=blocks, rank=2, kl_weight=0.0, kl="mean")
