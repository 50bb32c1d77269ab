"""The sequential part of the chunkwise delta rule, the recurrence of states, as one Triton kernel for CUDA.

The same kernel runs forwards and, for the gradient, backwards.

Why not flash-linear-attention's `chunk_delta_h`: it is autotuned for each number and size of heads, and
rounds the state to the inputs' bfloat16 in every product.
"""

from __future__ import annotations

from torch import Tensor

from surgery.ops.kernels import block_size, ceil_div, jit, tl


def scan(
    w: Tensor, u: Tensor, keys: Tensor, decay: Tensor, state: Tensor, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (states before each chunk, writes of its tokens, final state) (docs/papers.md, In chunks).

    For chunk n, with S the state before it: written_n = u_n - w_n S, S <- decay_n S + keys_n^T written_n.
    Shapes: w and keys (heads, n, c, k), u (heads, n, c, v), decay (heads, n), state (heads, k, v).
    """
    return _run(w, keys, u, decay, state, None, precision, backward=False)


def scan_back(
    w: Tensor,
    keys: Tensor,
    decay: Tensor,
    d_before: Tensor,
    d_written: Tensor,
    d_after: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence of gradients from the last chunk to the first.

    With dS the gradient of the state after chunk n, the gradient of u is dW_n + k_n dS, and dS becomes
    decay_n dS + dS_n - w_n^T (dW_n + k_n dS).

    Returns:
        Gradients of (the state after each chunk, u, the first state).
    """
    return _run(keys, w, d_written, decay, d_after, d_before, precision, backward=True)


def _run(
    reader: Tensor,
    writer: Tensor,
    new: Tensor,
    decay: Tensor,
    state: Tensor,
    extra: Tensor | None,
    precision: str,
    *,
    backward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute, chunk by chunk: store S; y = new -+ reader S; S = decay S +- writer^T y (+ extra)."""
    heads, chunks, rows, width = reader.shape
    columns = new.shape[-1]
    kept = new.new_empty(heads, chunks, width, columns)
    out, last = new.new_empty(new.shape), state.new_empty(state.shape)
    block = 32 if width <= 128 else 16
    _scan[(heads, ceil_div(columns, block))](
        reader, writer, new, decay, state, extra if extra is not None else state, kept, out, last,
        chunks, rows, width, columns,
        ROWS=block_size(rows),
        WIDTH=block_size(width),
        BLOCK=block,
        BACKWARD=backward,
        PRECISION=precision,
        num_warps=4,
        num_stages=2,
    )  # fmt: skip
    return kept, out, last


@jit
def _scan(  # type: ignore[no-untyped-def]
    reader, writer, new, decay, first, extra, kept, out, last,
    chunks, rows, width, columns,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    BACKWARD: tl.constexpr, PRECISION: tl.constexpr,
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
        reading = tl.load(reader + chunk * rows * width + at_wide, mask=in_wide, other=0.0)
        writing = tl.load(writer + chunk * rows * width + at_wide, mask=in_wide, other=0.0)
        y = tl.load(new + chunk * rows * columns + at_new, mask=in_new, other=0.0)
        product = tl.dot(reading, state, input_precision=PRECISION)
        y = y + product if BACKWARD else y - product
        tl.store(out + chunk * rows * columns + at_new, y, mask=in_new)
        product = tl.dot(tl.trans(writing), y, input_precision=PRECISION)
        state = state * tl.load(decay + chunk)
        if BACKWARD:
            state += tl.load(extra + chunk * width * columns + at_state, mask=in_state, other=0.0)
            state -= product
        else:
            state += product
    tl.store(last + head * width * columns + at_state, state, mask=in_state)
