"""Fused residual add + RMSNorm: returns h + y and its norm."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from surgery.ops.plain import is_plain
from surgery.ops.residual_triton import add_norm_back_fused, add_norm_fused, fits_stream


def add_norm(
    h: Float[Tensor, "*batch d"], y: Float[Tensor, "*batch d"] | None, norm: nn.RMSNorm
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
    """Return (h + y, its norm); without y, (h, the norm of h).

    On CUDA one kernel computes both, with the norm in autocast's dtype: autocast itself would keep it in
    float32 and cast it for every projection.
    """
    plain = is_plain(norm, nn.RMSNorm)
    if not plain or torch.compiler.is_compiling() or not fits_stream(h, y, norm.weight):
        total = h if y is None else h + y
        return total, norm(total)
    kind = h.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else h.dtype
    total, normed = _AddNorm.apply(h, y, norm.weight, norm.eps or torch.finfo(torch.float32).eps, dtype)
    return total, normed


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        total, normed, scale = add_norm_fused(h, y, weight, eps, dtype)
        ctx.save_for_backward(total, scale, weight)
        ctx.added = None if y is None else y.dtype
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor, d_normed: Tensor) -> Any:
        total, scale, weight = ctx.saved_tensors
        d_h, d_y, d_weight = add_norm_back_fused(total, scale, weight, d_total, d_normed, ctx.added)
        return d_h, d_y, d_weight, None, None
