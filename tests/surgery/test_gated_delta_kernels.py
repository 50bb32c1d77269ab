"""The kernels of Gated DeltaNet against the same steps in plain torch, in double precision.

They run on CUDA, and anywhere else in Triton's interpreter (TRITON_INTERPRET=1, triton installed).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from surgery.mixers.delta.short_conv import short_conv_plainly
from surgery.mixers.delta.short_conv_triton import ShortConv
from surgery.mixers.gdn.fused import FusedDelta
from surgery.mixers.gdn.gated_norm_triton import GatedNorm
from surgery.mixers.gdn.sizes import DeltaSizes
from surgery.mixers.gdn.steps import gated_norm_plainly, mix_plainly
from tests.surgery.on_triton import DEVICE, DTYPES, RUNS, every_dtype

pytestmark = RUNS


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()


def check(
    kernel: Callable[..., Sequence[Tensor]],
    plain: Callable[..., Sequence[Tensor]],
    leaves: list[Tensor],
    dtype: torch.dtype,
) -> None:
    """Outputs and gradients of both, whatever gradient the outputs receive."""
    result, wanted = kernel(*leaves), plain(*(leaf.double() for leaf in leaves))
    weights = [torch.randn_like(y) for y in wanted]
    rounded = [weight.to(y.dtype) for weight, y in zip(weights, result, strict=True)]
    pairs = zip(
        (*result, *torch.autograd.grad(result, leaves, rounded)),
        (*wanted, *torch.autograd.grad(wanted, leaves, weights)),
        strict=True,
    )
    for index, (mine, theirs) in enumerate(pairs):
        assert mine.shape == theirs.shape
        error = (mine.double() - theirs).norm() / theirs.norm()
        assert error < DTYPES[dtype], f"tensor {index}: {error:.1e}"


@every_dtype
@pytest.mark.parametrize("decay", [True, False])
@pytest.mark.parametrize(
    ("batch", "length", "heads", "key", "value"),
    [(2, 70, 2, 16, 24), (1, 9, 1, 8, 40), (1, 200, 3, 32, 64), (2, 64, 1, 48, 96), (1, 65, 1, 128, 256)],
)
def test_the_delta_rule(
    batch: int, length: int, heads: int, key: int, value: int, decay: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(length)
    sizes = DeltaSizes(64, heads, key, value, 4, gate=True, decay=decay, negative_eigenvalues=False)
    qkv = draw(batch, length, sizes.channels, dtype=dtype)
    rates = torch.rand(2, batch, length, heads, device=DEVICE)
    leaves = [qkv, rates[0].requires_grad_(), draw(batch, heads, key, value)]
    if decay:
        leaves.append((-2 * rates[1] ** 3).detach().requires_grad_())

    def form(run: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
        return lambda qkv, beta, state, g=None: run(qkv, g, beta, state, sizes)

    check(form(FusedDelta.apply), form(mix_plainly), leaves, dtype)


@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_the_same_key_over_and_over_stays_exact(beta: float, noise: float) -> None:
    torch.manual_seed(0)
    sizes = DeltaSizes(64, 2, 16, 16, 4, gate=True, decay=False, negative_eigenvalues=True)
    qkv = (draw(1, 1, sizes.channels) + noise * draw(1, 130, sizes.channels)).detach()
    rate = torch.full((1, 130, 2), beta, device=DEVICE)
    state = draw(1, 2, 16, 16).detach()
    result = FusedDelta.apply(qkv, None, rate, state, sizes)
    wanted = mix_plainly(qkv.double(), None, rate.double(), state.double(), sizes)
    for mine, theirs in zip(result, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-3)


@every_dtype
@pytest.mark.parametrize(
    ("batch", "length", "channels", "width", "past"),
    [(2, 70, 40, 4, 0), (1, 3, 70, 2, 0), (2, 65, 128, 4, 3), (1, 1, 16, 8, 7), (1, 200, 16, 3, 2)],
)
def test_the_short_convolution(
    batch: int, length: int, channels: int, width: int, past: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(length)
    leaves = [draw(batch, past + length, channels, dtype=dtype), draw(channels, 1, width)]
    check(
        lambda x, weight: [ShortConv.apply(x, weight, past)],
        lambda x, weight: [short_conv_plainly(x, weight, past)],
        leaves,
        dtype,
    )


@every_dtype
@pytest.mark.parametrize(
    ("batch", "length", "heads", "width"), [(2, 9, 3, 40), (1, 130, 2, 8), (2, 5, 1, 256)]
)
def test_the_gated_norm(batch: int, length: int, heads: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(length)
    shapes = ((batch, length, heads, width), (batch, length, heads * width))
    leaves = [*(draw(*shape, dtype=dtype) for shape in shapes), draw(width)]
    check(
        lambda y, gate, weight: [GatedNorm.apply(y, gate, weight, 1e-5).flatten(2)],
        lambda y, gate, weight: [gated_norm_plainly(y, gate, weight, 1e-5)],
        leaves,
        dtype,
    )
