"""Linear attention with a decaying state against a token loop in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.ops.decaying_attention import chunkwise, decaying_attention, stepwise

FORMS = {"chunkwise": chunkwise, "stepwise": stepwise, "chosen": decaying_attention}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
every_decay = pytest.mark.parametrize("channels", [1, 6], ids=["one decay", "a decay per channel"])


def inputs(length: int, channels: int, *, fade: float = 2.0, heads: int = 3) -> list[Tensor]:
    """Double-precision (q, k, v, g, state); decays from none to exp(-fade)."""
    torch.manual_seed(length)
    options: dict[str, Any] = {"dtype": torch.float64}
    q, k = (torch.randn(2, heads, length, 6, **options) for _ in "qk")
    v = torch.randn(2, 3, length, 5, **options)
    g = -fade * torch.rand(2, 3, length, channels, **options) ** 3
    return [q, k, v, g, torch.randn(2, 3, 6, 5, **options)]


def token_loop(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """S_t = Diag(a_t) S_(t-1) + k_t v_t^T; o_t = S_t^T q_t, a_t = exp(g_t) for every channel of the key."""
    outputs = []
    for t in range(v.shape[2]):
        decay = torch.diag_embed(g[:, :, t].exp().expand(-1, -1, q.shape[-1]))
        state = decay @ state + k[:, :, t, :, None] @ v[:, :, t, None, :]
        outputs.append((state.mT @ q[:, :, t, :, None])[..., 0])
    return torch.stack(outputs, dim=2), state


@every_form
@every_decay
@pytest.mark.parametrize("heads", [3, 1], ids=["q and k by head", "shared by heads"])
@pytest.mark.parametrize("length", [1, 8, 9, 32, 33, 70])
def test_values_and_gradients_equal_the_recurrence(
    form: Callable[..., Any], channels: int, heads: int, length: int
) -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(length, channels, heads=heads)]
    weights = torch.randn(2, 3, length, 5, dtype=torch.float64)
    results = []
    for rule in (form, token_loop):
        y, last = rule(*leaves)
        loss = (y * weights).sum() + last.square().sum()
        results.append((y, last, *torch.autograd.grad(loss, leaves)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@every_decay
@pytest.mark.parametrize("chunk", [1, 2, 16, 64, 128])
def test_any_chunk_gives_the_same(channels: int, chunk: int) -> None:
    given = inputs(70, channels)
    for ours, theirs in zip(chunkwise(*given, chunk=chunk), token_loop(*given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@every_form
@every_decay
def test_strong_decays_are_finite_and_leave_the_weak_ones_exact(
    form: Callable[..., Any], channels: int
) -> None:
    """exp(100) overflows, and sums of such decays leave few digits for what decays after them."""
    q, k, v, g, state = inputs(100, channels)
    g = torch.where(torch.rand_like(g) < 0.3, -100.0, g / 100)
    exact, last = token_loop(q, k, v, g, state)
    leaves = [tensor.float().requires_grad_() for tensor in (q, k, v, g, state)]
    y, after = form(*leaves)
    assert (y - exact).norm() < 1e-6 * exact.norm()
    assert (after - last).norm() < 1e-6 * last.norm()
    for gradient in torch.autograd.grad(y.sum() + after.sum(), leaves):
        assert torch.isfinite(gradient).all()


@every_decay
@pytest.mark.parametrize("length", [1, 70])
def test_autocast_leaves_the_recurrence_alone(channels: int, length: int) -> None:
    leaves = [tensor.float() for tensor in inputs(length, channels)]
    plain = decaying_attention(*leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = decaying_attention(*leaves)
    assert y.dtype == last.dtype == torch.float32
    torch.testing.assert_close((y, last), plain, rtol=0, atol=0)
