"""Distillation in chunks is F.kl_div and F.cross_entropy of whole logits, with their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from surgery.ops import cross_entropy, distillation
from surgery.ops.cross_entropy import IGNORED, linear_cross_entropy
from surgery.ops.distillation import linear_distillation
from surgery.ops.distillation_triton import distill_fused
from tests.surgery.on_triton import DEVICE, RUNS


def inputs(tokens: int, vocab: int, ignored: int, seed: int) -> list[Tensor]:
    """States and head of a student, targets of which the first don't count, states and head of a teacher."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = torch.randint(vocab, (tokens,), generator=generator)
    targets[:ignored] = IGNORED
    hidden, weight = normal(tokens, 5).requires_grad_(), normal(vocab, 5).requires_grad_()
    return [hidden, weight, targets, normal(tokens, 3), normal(vocab, 3)]


def reference(
    logits: Tensor, teacher: Tensor, targets: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the rows that count, by torch's own losses."""
    rows = targets != IGNORED
    cross_entropy = F.cross_entropy(logits, targets, reduction="sum")
    log_q, log_p = F.log_softmax(logits[rows], -1), F.log_softmax(teacher[rows], -1)
    divergence = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return (1 - share) * cross_entropy + share * divergence, cross_entropy, divergence


@given(
    tokens=st.integers(1, 40), vocab=st.integers(1, 30), chunk=st.integers(1, 400), left_out=st.floats(0, 1),
    share=st.sampled_from([0.0, 0.3, 0.5, 1.0]), scale=st.floats(-3, 3), seed=st.integers(0, 999),
)  # fmt: skip
def test_equals_torch(
    tokens: int, vocab: int, chunk: int, left_out: float, share: float, scale: float, seed: int
) -> None:
    hidden, weight, targets, states, head = inputs(tokens, vocab, int(left_out * tokens), seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cross_entropy.CHUNK, "cpu", chunk)
        ours = linear_distillation(hidden, weight, targets, states, head, share)
    wanted = reference(hidden @ weight.T, states @ head.T, targets, share)
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    gradients = torch.autograd.grad(ours[0] * scale, (hidden, weight))
    for mine, theirs in zip(gradients, torch.autograd.grad(wanted[0] * scale, (hidden, weight)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_the_divergence_from_oneself_is_zero_and_has_no_gradient() -> None:
    hidden, weight, targets, _, _ = inputs(12, 20, 0, 0)
    total, cross_entropy, divergence = linear_distillation(hidden, weight, targets, hidden, weight, 1.0)
    wanted = linear_cross_entropy(hidden, weight, targets, reduction="sum")
    torch.testing.assert_close(cross_entropy, wanted.detach())
    assert abs(divergence.item()) < 1e-12
    (gradient,) = torch.autograd.grad(total, hidden)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("tokens", "vocab"), [(1, 1), (7, 17), (33, 256), (5, 8192), (3, 20_001)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
class TestKernel:
    pytestmark = RUNS

    def test_rows(self, tokens: int, vocab: int, share: float, dtype: torch.dtype) -> None:
        torch.manual_seed(tokens)
        logits = (8 * torch.randn(tokens, vocab)).to(DEVICE, dtype)
        teacher = (logits.float() + torch.randn(tokens, vocab, device=DEVICE)).to(dtype)
        targets = torch.randint(vocab, (tokens,)).to(DEVICE)
        targets[::3] = IGNORED
        exact = logits.double().requires_grad_()
        wanted = reference(exact, teacher.double(), targets, share)
        (gradient,) = torch.autograd.grad(wanted[0], exact)
        losses = distill_fused(logits, teacher, targets, share, IGNORED)
        torch.testing.assert_close(losses.double().sum(0), torch.stack(wanted).detach(), rtol=1e-5, atol=1e-4)
        tolerance = 1e-5 if dtype == torch.float32 else 2**-7  # the interpreter cuts bits off
        torch.testing.assert_close(logits.double(), gradient, rtol=tolerance, atol=5e-6)  # a difference

    def test_in_chunks_under_autocast(
        self, tokens: int, vocab: int, share: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if DEVICE == "cpu":
            monkeypatch.setattr(distillation, "fits_rows", lambda logits: True)
        given = [item.detach().to(DEVICE) for item in inputs(tokens, vocab, 0, 0)]
        monkeypatch.setitem(cross_entropy.CHUNK, "cpu" if DEVICE == "cpu" else "accelerator", 4 * vocab)
        hidden, weight, targets, states, head = (
            item.float() if item.is_floating_point() else item for item in given
        )
        leaves = [hidden.requires_grad_(), weight.requires_grad_()]
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            ours = linear_distillation(hidden, weight, targets, states, head, share)
        result = torch.autograd.grad(ours[0], leaves)
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        wanted = reference(exact[0] @ exact[1].T, states.double() @ head.double().T, targets, share)
        for mine, theirs in zip(result, torch.autograd.grad(wanted[0], exact), strict=True):
            error = 1e-4 if dtype == torch.float32 else 0.1  # the interpreter cuts bits off
            assert (mine.double() - theirs).norm() <= error * theirs.norm() + 1e-6
