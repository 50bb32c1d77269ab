"""The kernels of sparse attention's indexer against the same in plain torch, in double precision.

They run on CUDA, and anywhere else in Triton's interpreter (TRITON_INTERPRET=1, triton installed).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from surgery.context import Context
from surgery.mixers.sparse import masked, rows_triton
from surgery.mixers.sparse.attention import Heads
from surgery.mixers.sparse.indexer import Index
from surgery.mixers.sparse.masked import masked_attention
from surgery.mixers.sparse.select import as_mask, top_tokens, visible
from tests.surgery.on_triton import DEVICE, RUNS

pytestmark = RUNS


def here(length: int) -> Context:
    table = torch.zeros(1, length, 2, device=DEVICE)
    return Context((table, table))


def index_of(length: int, heads: int, size: int, keys: torch.dtype = torch.float32) -> Index:
    def draw(*shape: int) -> Tensor:
        return torch.randn(2, length, *shape).to(DEVICE)

    return Index(
        draw(heads, size).requires_grad_(),
        draw(heads).requires_grad_(),
        draw(size).to(keys).requires_grad_(),
    )


@pytest.mark.parametrize("top_k", [1, 7, 64, 300])
@pytest.mark.parametrize("length", [1, 17, 130])
def test_the_selection_is_that_of_top_tokens(length: int, top_k: int) -> None:
    """Scores are whole numbers, so that many are equal and all are exact."""
    index = index_of(length, 3, 8)
    whole = Index(*(part.detach().mul(2).round() for part in index))
    q = torch.randn(2, 2, length, 16).to(DEVICE)
    result = rows_triton.rows_fused(*whole, q, q, top_k, with_kl=False).chosen
    scores, allowed = whole.scores(length), visible(here(length), slice(0, length))
    assert torch.equal(result, as_mask(*top_tokens(scores, allowed, min(top_k, length)), length))


@pytest.mark.parametrize("keys", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("length", "top_k", "heads", "size", "q_heads", "k_heads", "head"),
    [
        (1, 2, 1, 4, 1, 1, 8),
        (40, 5, 3, 20, 4, 2, 24),
        (130, 200, 4, 32, 2, 2, 64),
        (257, 64, 4, 32, 3, 1, 16),
    ],
)
def test_loss_and_gradients(
    length: int, top_k: int, heads: int, size: int, q_heads: int, k_heads: int, head: int,
    keys: torch.dtype, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(masked, "fits_rows", lambda *_: True)
    torch.manual_seed(length)
    index = index_of(length, heads, size, keys)
    q, k, v = (torch.randn(2, h, length, head).to(DEVICE) for h in (q_heads, k_heads, k_heads))
    mixed, kl = masked_attention(Heads(q, k, v), index, here(length), top_k, with_kl=True)
    result = torch.autograd.grad(3 * kl, index)

    monkeypatch.setattr(masked, "fits_rows", lambda *_: False)
    exact = Index(*(part.detach().double().requires_grad_() for part in index))
    qkv = (x.double() for x in (q, k, v))
    wanted, exact_kl = masked_attention(Heads(*qkv), exact, here(length), top_k, with_kl=True)
    torch.testing.assert_close(mixed.double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kl.double(), exact_kl, rtol=1e-4, atol=1e-4)
    for mine, part, theirs in zip(result, index, torch.autograd.grad(3 * exact_kl, exact), strict=True):
        assert mine.dtype == part.dtype
        tolerance = 1e-4 if part.dtype == torch.float32 else 2**-7
        assert (mine.double() - theirs).norm() <= tolerance * theirs.norm() + 1e-6
