"""silu(gate) * up (Shazeer 2020, 2002.05202)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from surgery.ops.swiglu_triton import fits_pair, swiglu_back_fused, swiglu_fused


def swiglu(gate: Float[Tensor, "*batch f"], up: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
    """Return silu(gate) * up; on CUDA by one kernel, and its gradients by another."""
    if torch.compiler.is_compiling() or not fits_pair(gate, up):
        return F.silu(gate) * up
    y: Tensor = _SwiGLU.apply(gate, up)
    return y


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return swiglu_fused(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return swiglu_back_fused(gate, up, d_y.contiguous())
