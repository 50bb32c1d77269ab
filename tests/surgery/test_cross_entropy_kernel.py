"""The kernel of cross-entropy against torch's own, in double precision.

It runs on CUDA, and anywhere else in Triton's interpreter (TRITON_INTERPRET=1, triton installed).
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from surgery.ops import cross_entropy, cross_entropy_triton
from surgery.ops.cross_entropy import IGNORED, linear_cross_entropy
from surgery.ops.cross_entropy_triton import losses_fused
from tests.surgery.on_triton import DEVICE, INTERPRETED, RUNS

pytestmark = RUNS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("tokens", "vocab"), [(1, 1), (7, 17), (33, 256), (5, 8192), (3, 20_001)])
def test_rows(tokens: int, vocab: int, dtype: torch.dtype) -> None:
    torch.manual_seed(tokens)
    logits = (8 * torch.randn(tokens, vocab)).to(DEVICE, dtype)
    targets = torch.randint(vocab, (tokens,)).to(DEVICE)
    targets[::3] = IGNORED
    exact = logits.double().requires_grad_()
    wanted = F.cross_entropy(exact, targets, reduction="none", ignore_index=IGNORED)
    (gradient,) = torch.autograd.grad(wanted.sum(), exact)
    result = losses_fused(logits, targets, IGNORED)
    torch.testing.assert_close(result.double(), wanted, rtol=1e-5, atol=1e-5)
    tolerance = 1e-6 if dtype == torch.float32 else 2**-7  # the interpreter cuts bits off
    torch.testing.assert_close(logits.double(), gradient, rtol=tolerance, atol=1e-6)


def test_in_pieces_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "cpu" if INTERPRETED else "accelerator"
    monkeypatch.setitem(cross_entropy.CHUNK, kind, 300 * 50)
    if INTERPRETED:
        monkeypatch.setattr(cross_entropy, "fits_rows", lambda logits: True)
    torch.manual_seed(0)
    hidden, weight = torch.randn(130, 24, device=DEVICE), torch.randn(300, 24, device=DEVICE)
    targets = torch.randint(300, (130,), device=DEVICE)
    targets[5:20] = IGNORED
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    result = [loss, *torch.autograd.grad(loss, leaves)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = F.cross_entropy(exact[0] @ exact[1].T, targets)
    for mine, theirs in zip(result, [wanted, *torch.autograd.grad(wanted, exact)], strict=True):
        assert (mine.double() - theirs).norm() < 2e-2 * theirs.norm()


def test_what_fits() -> None:
    assert not cross_entropy_triton.fits_rows(torch.zeros(2, 3))
    assert not cross_entropy_triton.fits_rows(torch.zeros(2, 3, dtype=torch.float64))
