"""The delta rule on CUDA: three kernels forward and three backward, storing no tokens x tokens tensor.

Launch configurations depend only on the sizes: autotuning would cost too much in a search of thousands of
short runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surgery.mixers.delta.sizes import UNIT_EPS
from surgery.mixers.gdn.chunks_triton import ROWS, prepare, prepare_back, read, read_back
from surgery.mixers.gdn.scan_triton import scan, scan_back
from surgery.mixers.gdn.sizes import DeltaSizes
from surgery.ops.kernels import AVAILABLE, block_size, ceil_div

WIDEST_KEY = 128  # per head: programs hold a whole key, and (key, columns) of the state, in registers


def fits_delta(qkv: Tensor, sizes: DeltaSizes) -> bool:
    """Return whether the kernels support these: on CUDA, in bfloat16 or float32, keys within registers."""
    fits_dtype = qkv.is_cuda and qkv.dtype in (torch.bfloat16, torch.float32)
    return AVAILABLE and fits_dtype and sizes.key <= WIDEST_KEY


class FusedDelta(torch.autograd.Function):
    """`mix` of `steps.py` on CUDA.

    All sums are in float32. In a bfloat16 model the factors of products are rounded to 11 bits (TF32), more
    than the 8 bits of its own precision; in a float32 model they keep all 24.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, g: Tensor | None, beta: Tensor, state: Tensor, sizes: DeltaSizes
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (b, t, h, v) in the dtype of `qkv`, and the float32 state after them."""
        qkv, beta, state = qkv.contiguous(), beta.contiguous(), state.contiguous()
        g = g.contiguous() if g is not None else None
        kernels = _Launcher(qkv, g, sizes)
        per_chunk = kernels.empty
        inverse, w, u, decayed = (
            per_chunk(ROWS, width) for width in (ROWS, sizes.key, sizes.value, sizes.key)
        )
        decay = per_chunk()
        kernels(prepare, qkv, g, beta, inverse, w, u, decayed, decay)
        before, written, after = scan(w, u, decayed, decay, state.flatten(0, 1), kernels.precision)
        out = qkv.new_empty(*qkv.shape[:2], sizes.heads, sizes.value)
        kernels(read, qkv, g, before, written, out, scale=sizes.key**-0.5)
        ctx.save_for_backward(qkv, g, beta, inverse, w, decayed, decay, before, written)
        ctx.sizes = sizes
        return out, after.view(state.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradients of qkv, g, beta and the first state; None for the sizes."""
        qkv, g, beta, inverse, w, decayed, decay, before, written = ctx.saved_tensors
        sizes = ctx.sizes
        d_out, d_after = (x.contiguous() for x in gradients)
        kernels = _Launcher(qkv, g, sizes)
        d_qkv, d_beta = torch.empty_like(qkv), torch.empty_like(beta)
        d_g = torch.empty_like(g) if g is not None else None
        d_key, d_written = kernels.empty(ROWS, sizes.key), torch.empty_like(written)
        d_before, d_total = torch.empty_like(before), kernels.empty(ROWS)
        kernels(
            read_back, qkv, g, before, written, d_out, d_qkv, d_key, d_before, d_written, d_total,
            scale=sizes.key**-0.5,
        )  # fmt: skip
        d_states, d_u, d_state = scan_back(
            w, decayed, decay, d_before, d_written, d_after.flatten(0, 1), kernels.precision
        )
        kernels(
            prepare_back, qkv, g, beta, inverse, before, written,
            d_key, d_total, d_u, d_states, d_qkv, d_g, d_beta,
        )  # fmt: skip
        return d_qkv, d_g, d_beta, d_state.view(d_after.shape), None


class _Launcher:
    """Launcher of the kernels of `chunks_triton`, one program per chunk and head."""

    def __init__(self, qkv: Tensor, g: Tensor | None, sizes: DeltaSizes) -> None:
        batch, self.length = qkv.shape[:2]
        self.sizes = sizes
        self.decay = g is not None
        self.like = qkv
        self.grid = (ceil_div(self.length, ROWS), batch * sizes.heads)
        self.precision = "tf32" if qkv.dtype == torch.bfloat16 else "tf32x3"

    def empty(self, *shape: int) -> Tensor:
        """Return an empty float32 tensor (batch * heads, chunks, *shape)."""
        return self.like.new_empty(self.grid[1], self.grid[0], *shape, dtype=torch.float32)

    def __call__(self, kernel: Any, *tensors: Tensor | None, **numbers: float) -> None:
        sizes = self.sizes
        kernel[self.grid](
            *tensors,
            self.length, sizes.heads, sizes.key, sizes.value, UNIT_EPS,
            **numbers,
            ROWS=ROWS,
            WIDTH=block_size(sizes.key),
            BLOCK=block_size(sizes.value, 64 if sizes.key <= 64 else 32),
            DECAY=self.decay,
            PRECISION=self.precision,
            num_warps=4,
            num_stages=1,
        )  # fmt: skip
