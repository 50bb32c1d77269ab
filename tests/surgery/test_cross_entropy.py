"""Cross-entropy by pieces is F.cross_entropy of the logits, with its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from surgery.ops import cross_entropy
from surgery.ops.cross_entropy import IGNORED, linear_cross_entropy
from tests.models import architecture, build


def inputs(tokens: int, vocab: int, ignored: int, seed: int, dtype: Any = torch.float64) -> list[Tensor]:
    """Hidden states of width 5, a head, targets of which the first `ignored` don't count."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (tokens,), generator=generator)
    targets[:ignored] = IGNORED
    return [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets]


def with_gradients(loss: Tensor, *leaves: Tensor, scale: float = 1.0) -> list[Tensor]:
    return [loss, *torch.autograd.grad(loss * scale, leaves)]


@given(
    tokens=st.integers(1, 40), vocab=st.integers(1, 30), piece=st.integers(1, 400), share=st.floats(0, 0.99),
    reduction=st.sampled_from(["mean", "sum"]), scale=st.floats(-3, 3), seed=st.integers(0, 999),
)  # fmt: skip
def test_equals_torch(
    tokens: int, vocab: int, piece: int, share: float, reduction: str, scale: float, seed: int
) -> None:
    hidden, weight, targets = inputs(tokens, vocab, int(share * tokens), seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cross_entropy.CHUNK, "cpu", piece)
        loss = linear_cross_entropy(hidden, weight, targets, reduction=reduction)
    wanted = F.cross_entropy(hidden @ weight.T, targets, reduction=reduction)
    ours = with_gradients(loss, hidden, weight, scale=scale)
    for result, theirs in zip(ours, with_gradients(wanted, hidden, weight, scale=scale), strict=True):
        torch.testing.assert_close(result, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("piece", [9, 1000])
def test_gradients_are_numerical_ones(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", piece)
    hidden, weight, targets = inputs(7, 9, 2, 0)
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets), (hidden, weight))


def test_far_logits_stay_exact() -> None:
    hidden, weight, targets = inputs(12, 20, 0, 0, torch.float32)
    with torch.no_grad():
        hidden *= 300
    ours, wanted = linear_cross_entropy(hidden, weight, targets), F.cross_entropy(hidden @ weight.T, targets)
    assert wanted > 100
    torch.testing.assert_close(ours, wanted)


def test_nothing_that_counts() -> None:
    hidden, weight, targets = inputs(4, 6, 4, 0)
    assert linear_cross_entropy(hidden, weight, targets).isnan()
    loss = linear_cross_entropy(hidden, weight, targets, reduction="sum")
    assert [item.abs().sum().item() for item in with_gradients(loss, hidden, weight)] == [0.0, 0.0, 0.0]


def test_autocast_takes_the_product_in_bfloat16() -> None:
    hidden, weight, targets = inputs(64, 50, 8, 0, torch.float32)
    exact = with_gradients(F.cross_entropy(hidden @ weight.T, targets), hidden, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
        wanted = F.cross_entropy((hidden @ weight.T).float(), targets)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)  # the same rounded product
    for result, theirs in zip(with_gradients(loss, hidden, weight), exact, strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, theirs, rtol=0.03, atol=2e-3)


def test_no_gradient_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation makes no gradients, and a frozen head costs none of its own."""
    hidden, weight, targets = inputs(6, 8, 1, 0)
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, targets).requires_grad
    loss = linear_cross_entropy(hidden, weight.detach(), targets)
    (result,) = torch.autograd.grad(loss, hidden)
    (wanted,) = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, targets), hidden)
    torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_loss_of_a_model(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of three tokens, with the embedding as head or without."""
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 3 * 37)
    torch.manual_seed(0)
    model = build(architecture(tie_embeddings=tied)).double()
    rows = torch.randint(37, (2, 11))
    rows[0, 4] = IGNORED
    targets = rows[:, 1:]
    tokens = rows[:, :-1].clamp(min=0)
    leaves = list(model.parameters())
    wanted = F.cross_entropy(model.head(model(tokens)).flatten(0, 1), targets.flatten())
    theirs = with_gradients(wanted, *leaves)
    ours = with_gradients(model.loss(tokens, targets)[0], *leaves)
    for result, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)
