"""silu(gate) * up and its gradients as Triton kernels for CUDA.

Why not Liger's `LigerSiLUMulFunction`: it is compiled anew for each width, and its gradients overwrite gate
and up, so that a graph can't be used twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.ops.kernels import AVAILABLE, ceil_div, jit, tl

ELEMENTS = 4096  # per program


def fits_pair(gate: Tensor, up: Tensor) -> bool:
    """Return whether the kernels support these: on CUDA, both in bfloat16 or both in float32."""
    fits_dtype = gate.dtype == up.dtype and gate.dtype in (torch.bfloat16, torch.float32)
    fits_shape = gate.shape == up.shape and gate.numel() > 0
    return AVAILABLE and fits_dtype and gate.is_cuda and up.is_cuda and fits_shape


def swiglu_fused(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up."""
    y = torch.empty_like(gate)
    amount = gate.numel()
    write_swiglu[(ceil_div(amount, ELEMENTS),)](
        gate, up, y, amount, BLOCK=ELEMENTS, num_warps=8, num_stages=1
    )
    return y


def swiglu_back_fused(gate: Tensor, up: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of gate and up."""
    d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
    amount = gate.numel()
    write_back[(ceil_div(amount, ELEMENTS),)](
        gate, up, d_y, d_gate, d_up, amount, BLOCK=ELEMENTS, num_warps=8, num_stages=1
    )
    return d_gate, d_up


@jit
def write_swiglu(gate, up, y, amount, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute silu(gate) * up of a block of elements."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + at, mask=at < amount, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=at < amount, other=0.0).to(tl.float32)
    tl.store(y + at, g * tl.sigmoid(g) * u, mask=at < amount)


@jit
def write_back(gate, up, d_y, d_gate, d_up, amount, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute the gradients of gate and up for a block of elements."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + at, mask=at < amount, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=at < amount, other=0.0).to(tl.float32)
    d = tl.load(d_y + at, mask=at < amount, other=0.0).to(tl.float32)
    open_ = tl.sigmoid(g)
    tl.store(d_gate + at, d * u * open_ * (1.0 + g * (1.0 - open_)), mask=at < amount)
    tl.store(d_up + at, d * g * open_, mask=at < amount)
