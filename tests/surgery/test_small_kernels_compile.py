"""Kernels of norms, SwiGLU, rotary embedding, distillation and sparse attention's indexer, for an H100.

Needs Triton, not interpreted; no device.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from surgery.mixers.sparse import rows_triton
from surgery.ops import distillation_triton, residual_triton, rotary_triton, swiglu_triton
from tests.surgery.on_triton import TRANSLATES
from tests.surgery.translation import Launch, Recorder, translated

pytestmark = TRANSLATES

SHARED = 160 * 1024  # bytes that a block of threads can have on an A100, less than on an H100


def half(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def norms(d: int) -> None:
    h, y, weight = torch.zeros(6, d), half(6, d), torch.zeros(d)
    for added in (None, y):
        residual_triton.add_norm_fused(h, added, weight, 1e-6, torch.bfloat16)
        kind = None if added is None else added.dtype
        residual_triton.add_norm_back_fused(h, torch.zeros(6), weight, h, y, kind)


def pairs(f: int) -> None:
    gate = half(6, f)
    swiglu_triton.swiglu_fused(gate, gate)
    swiglu_triton.swiglu_back_fused(gate, gate, gate)


def heads(size: int) -> None:
    table = torch.zeros(1, 20, size)
    rotary_triton.rotate_fused(half(2, 20, 8, size).transpose(1, 2), table, table, back=False)


def index(length: int) -> None:
    queries, weights, keys = torch.zeros(2, length, 4, 32), torch.zeros(2, length, 4), half(2, length, 32)
    q = half(2, 8, length, 64)
    rows_triton.rows_fused(queries, weights, keys, q, q, 64, with_kl=True)


def logits(vocab: int) -> None:
    distillation_triton.distill_fused(half(6, vocab), half(6, vocab), torch.zeros(6).long(), 0.5, -100)


@pytest.mark.parametrize(
    ("module", "run", "size"),
    [
        (residual_triton, norms, 512),
        (residual_triton, norms, 8192),
        (swiglu_triton, pairs, 1408),
        (rotary_triton, heads, 64),
        (distillation_triton, logits, 49_152),
        (rows_triton, index, 512),
        (rows_triton, index, 2048),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_kernels_translate_and_fit(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, run: Callable[[int], None], size: int
) -> None:
    launches: list[Launch] = []
    for name, value in list(vars(module).items()):
        if hasattr(value, "arg_names") and not name.startswith("_"):
            monkeypatch.setattr(module, name, Recorder(value, launches))
    run(size)
    assert launches
    for kernel, tensors, options in launches:
        assert translated(kernel, tensors, options).metadata.shared <= SHARED, kernel.__name__
