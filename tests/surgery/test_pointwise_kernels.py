"""The kernels of norms, SwiGLU and rotary embedding against the same in plain torch, in double precision.

They run on CUDA, and anywhere else in Triton's interpreter (TRITON_INTERPRET=1, triton installed).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.ops import residual, residual_triton, rotary, rotary_triton, swiglu, swiglu_triton
from surgery.ops.rotary import rotate
from tests.surgery.on_triton import DEVICE, INTERPRETED, RUNS, every_dtype

pytestmark = RUNS

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


@pytest.fixture(autouse=True)
def _everything_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        monkeypatch.setattr(residual, "fits_stream", lambda *_: True)
        monkeypatch.setattr(swiglu, "fits_pair", lambda *_: True)
        monkeypatch.setattr(rotary, "fits_heads", lambda *_: True)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(DEVICE, dtype).requires_grad_()


def close(mine: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    assert mine.shape == theirs.shape
    assert (mine.double() - theirs).norm() <= TOLERANCE[dtype] * theirs.norm()


def compare(result: list[Tensor], exact: list[Tensor], leaves: list[Tensor], exactly: list[Tensor]) -> None:
    """Values and gradients of random weights of all values."""
    weights = [torch.randn_like(value) for value in result]
    gradients = torch.autograd.grad(result, leaves, weights)
    wanted = torch.autograd.grad(exact, exactly, [weight.double() for weight in weights])
    coarsest = max((value.dtype for value in [*result, *leaves]), key=lambda dtype: TOLERANCE[dtype])
    for mine, theirs in zip([*result, *gradients], [*exact, *wanted], strict=True):
        close(mine, theirs, coarsest)
    for mine, item in zip(gradients, leaves, strict=True):
        assert mine.dtype == item.dtype


@pytest.mark.parametrize("added", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["exact", "autocast"])
@pytest.mark.parametrize("shape", [(1, 1, 16), (3, 7, 40), (1, 2049, 8), (2, 5, 1000)], ids=str)
def test_sum_and_norm(shape: tuple[int, ...], autocast: bool, added: torch.dtype | None) -> None:
    norm = nn.RMSNorm(shape[-1], eps=1e-5).to(DEVICE)
    nn.init.normal_(norm.weight)
    h = leaf(*shape)
    y = None if added is None else leaf(*shape, dtype=added)
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=autocast):
        total, normed = residual.add_norm(h, y, norm)
    assert total.dtype == torch.float32
    assert normed.dtype == (torch.bfloat16 if autocast else torch.float32)
    leaves = [h, norm.weight, *([] if y is None else [y])]
    exactly = [item.detach().double().requires_grad_() for item in leaves]
    exact = exactly[0] + (exactly[2] if y is not None else 0)
    compare([total, normed], [exact, F.rms_norm(exact, shape[-1:], exactly[1], 1e-5)], leaves, exactly)


def test_a_hook_on_the_norm_is_called() -> None:
    norm, seen = nn.RMSNorm(8).to(DEVICE), []
    norm.register_forward_hook(lambda *_: seen.append(True))
    residual.add_norm(leaf(2, 8), leaf(2, 8), norm)
    assert seen


@every_dtype
@pytest.mark.parametrize("shape", [(1, 1), (3, 7, 41), (2, 4099)], ids=str)
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    leaves = [leaf(*shape, dtype=dtype), leaf(*shape, dtype=dtype)]
    exactly = [item.detach().double().requires_grad_() for item in leaves]
    compare([swiglu.swiglu(*leaves)], [F.silu(exactly[0]) * exactly[1]], leaves, exactly)


@every_dtype
@pytest.mark.parametrize("positions", [1, 3], ids=["one table", "a table a row"])
@pytest.mark.parametrize("lies", ["b t h d", "b h t d"])
@pytest.mark.parametrize("heads", [1, 5])
def test_rotation(heads: int, lies: str, positions: int, dtype: torch.dtype) -> None:
    shape = (3, 17, heads, 12) if lies == "b t h d" else (3, heads, 17, 12)
    x = leaf(*shape, dtype=dtype)
    angles = torch.randn(positions, 40, 6).repeat(1, 1, 2)[:, 11:28].to(DEVICE)
    tables = angles.cos(), angles.sin()
    heads_first = x.transpose(1, 2) if lies == "b t h d" else x
    exact = x.detach().double().requires_grad_()
    exact_first = exact.transpose(1, 2) if lies == "b t h d" else exact
    pair = torch.view_as_complex(torch.stack(exact_first.chunk(2, dim=-1), dim=-1))
    turned = pair * torch.exp(1j * angles[:, None, :, :6].double())
    compare([rotate(heads_first, tables)], [torch.cat((turned.real, turned.imag), dim=-1)], [x], [exact])


def test_what_fits() -> None:
    x = torch.zeros(2, 8)
    assert not residual_triton.fits_stream(x, None, torch.zeros(8))
    assert not swiglu_triton.fits_pair(x, x)
    assert not rotary_triton.fits_heads(x[None, None], x[None], x[None])
