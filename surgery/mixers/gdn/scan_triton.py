"""The scan of `scan.py` as one Triton kernel for CUDA, used forwards and, for the gradient, backwards.

Configurations are fixed by the sizes: a search trains thousands of short runs, and none may stop to tune.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:  # inside `try`, so that transformers does not ask for it where a model's source is loaded
    import triton
    import triton.language as tl
except ImportError:  # no CUDA build of torch: the plain form is used
    triton = None

WIDEST_KEY = 256  # of a head: a program holds (key, columns) of the state in registers


def fits_kernel(w: Tensor, u: Tensor) -> bool:
    """Whether the kernel can take these: CUDA, float32, heads not wider than registers hold."""
    fits = w.is_cuda and w.dtype == torch.float32
    return triton is not None and fits and w.shape[-1] <= WIDEST_KEY and u.shape[-2] <= 64


class ScanChunks(torch.autograd.Function):
    """`scan_chunks` on CUDA. Its gradient is the same recurrence from the last chunk to the first: with dS
    the gradient of the state after chunk n, that of what it wrote is dW_n + k_n dS, and dS becomes
    decay_n dS + dS_n - w_n^T (dW_n + k_n dS)."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, u: Tensor, keys: Tensor, decay: Tensor, state: Tensor) -> Any:
        w, u, keys, decay, state = (x.contiguous() for x in (w, u, keys, decay, state))
        before, written, after = _run(w, keys, u, decay, state, None, minus_read=True, backward=False)
        ctx.save_for_backward(w, keys, decay, before, written)
        return before, written, after

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        w, keys, decay, before, written = ctx.saved_tensors
        d_before, d_written, d_after = (x.contiguous() for x in gradients)
        after, d_u, d_state = _run(
            keys, w, d_written, decay, d_after, d_before, minus_read=False, backward=True
        )
        # `after` holds, chunk by chunk, the gradient of the state that the chunk left behind
        d_w = -(d_u @ before.transpose(-1, -2))
        d_keys = written @ after.transpose(-1, -2)
        d_decay = (after * before).sum((-1, -2))
        return d_w, d_u, d_keys, d_decay, d_state


def _run(
    reader: Tensor,
    writer: Tensor,
    new: Tensor,
    decay: Tensor,
    state: Tensor,
    extra: Tensor | None,
    *,
    minus_read: bool,
    backward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """For each chunk in its turn: keep S; y = new -+ reader S; S = decay S +- writer^T y (+ extra)."""
    heads, chunks, rows, width = reader.shape
    columns = new.shape[-1]
    kept = new.new_empty(heads, chunks, width, columns)
    out, last = torch.empty_like(new), torch.empty_like(state)
    block = 32 if width <= 128 else 16
    _scan[(heads, triton.cdiv(columns, block))](
        reader, writer, new, decay, state, extra if extra is not None else state, kept, out, last,
        chunks, rows, width, columns,
        ROWS=max(16, triton.next_power_of_2(rows)),
        WIDTH=max(16, triton.next_power_of_2(width)),
        BLOCK=block,
        MINUS_READ=minus_read,
        EXTRA=extra is not None,
        BACKWARD=backward,
        num_warps=4,
        num_stages=2,
    )  # fmt: skip
    return kept, out, last


if triton is not None:

    @triton.jit
    def _scan(  # type: ignore[no-untyped-def]
        reader, writer, new, decay, first, extra, kept, out, last,
        chunks, rows, width, columns,
        ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
        MINUS_READ: tl.constexpr, EXTRA: tl.constexpr, BACKWARD: tl.constexpr,
    ):  # fmt: skip
        head = tl.program_id(0).to(tl.int64)
        row = tl.arange(0, ROWS)
        channel = tl.arange(0, WIDTH)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        at_state = channel[:, None] * columns + column[None, :]
        at_new = row[:, None] * columns + column[None, :]
        at_wide = row[:, None] * width + channel[None, :]
        in_state = (channel[:, None] < width) & (column[None, :] < columns)
        in_new = (row[:, None] < rows) & (column[None, :] < columns)
        in_wide = (row[:, None] < rows) & (channel[None, :] < width)
        state = tl.load(first + head * width * columns + at_state, mask=in_state, other=0.0)
        for step in range(chunks):
            chunk = head * chunks + (chunks - 1 - step if BACKWARD else step)
            tl.store(kept + chunk * width * columns + at_state, state, mask=in_state)
            read = tl.load(reader + chunk * rows * width + at_wide, mask=in_wide, other=0.0)
            write = tl.load(writer + chunk * rows * width + at_wide, mask=in_wide, other=0.0)
            y = tl.load(new + chunk * rows * columns + at_new, mask=in_new, other=0.0)
            product = tl.dot(read, state, input_precision="tf32x3")
            y = y - product if MINUS_READ else y + product
            tl.store(out + chunk * rows * columns + at_new, y, mask=in_new)
            product = tl.dot(tl.trans(write), y, input_precision="tf32x3")
            state = state * tl.load(decay + chunk)
            state = state + product if MINUS_READ else state - product
            if EXTRA:
                state += tl.load(extra + chunk * width * columns + at_state, mask=in_state, other=0.0)
        tl.store(last + head * width * columns + at_state, state, mask=in_state)
