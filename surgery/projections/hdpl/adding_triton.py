"""Sum of the partial sums of several programs, as one Triton kernel.

Why not `torch.sum`: one launch per tensor. Torch has no sum of several tensors over a dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from surgery.ops.kernels import ceil_div, jit, jit_once, tl
from surgery.projections.hdpl.tiles import pad_args, select3

MOST = 4  # tensors per launch
TURN = 1024  # elements that a program reads per iteration
LONG = 128  # of them, rows of the first tensor
MOST_ROWS = 16  # of them, rows of the others, at most


def add_up(partial: Sequence[Tensor], out: Tensor) -> list[Tensor]:
    """Sum each of these float32 tensors over its first dimension, concatenated into `out`.

    Only the first tensor should have a long first dimension: its programs read more rows per iteration.

    Returns:
        The sums, as views of `out`.
    """
    sizes = [tensor[0].numel() for tensor in partial]
    totals = list(out.split(sizes))
    for start in range(0, len(partial), MOST):
        some = [tensor.contiguous() for tensor in partial[start : start + MOST]]
        wide = sizes[start : start + MOST]
        rows = min(MOST_ROWS, 1 << (max(map(len, some[1:]), default=1) - 1).bit_length())
        tiles = ceil_div(wide[0], TURN // LONG) + sum(ceil_div(size, TURN // rows) for size in wide[1:])
        add_up_parts[(tiles,)](
            *pad_args(some, MOST), totals[start], *pad_args([*map(len, some)], MOST), *pad_args(wide, MOST),
            TURN=TURN, LONG=LONG, ROWS=rows, num_warps=2, num_stages=1,
        )  # fmt: skip
    return [sums.view(tensor.shape[1:]) for sums, tensor in zip(totals, partial, strict=True)]


@jit
def _add(  # type: ignore[no-untyped-def]
    partial, total, tile, parts, size, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Sum a tile of columns of a tensor."""
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, parts, ROWS):
        row = first + tl.arange(0, ROWS)
        at = partial + row[:, None].to(tl.int64) * size + column[None, :]
        sums += tl.load(at, mask=(row < parts)[:, None] & (column < size)[None, :], other=0.0)
    tl.store(total + column, tl.sum(sums, 0), mask=column < size)


@jit_once("parts0", "parts1", "parts2", "parts3", "size0", "size1", "size2", "size3")
def add_up_parts(  # type: ignore[no-untyped-def]
    partial0, partial1, partial2, partial3, total, parts0, parts1, parts2, parts3, size0, size1, size2, size3,
    TURN: tl.constexpr, LONG: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sum a tile of one of the tensors, whose sums are concatenated in `total`."""
    tile = tl.program_id(0)
    end0 = tl.cdiv(size0, TURN // LONG)
    end1 = end0 + tl.cdiv(size1, TURN // ROWS)
    end2 = end1 + tl.cdiv(size2, TURN // ROWS)
    if tile < end0:
        _add(partial0, total, tile, parts0, size0, LONG, TURN // LONG)
    else:
        later = (tile >= end1).to(tl.int32) + (tile >= end2)
        partial, parts = select3(later, partial1, partial2, partial3), select3(later, parts1, parts2, parts3)
        total += select3(later, size0, size0 + size1, size0 + size1 + size2)
        tile -= select3(later, end0, end1, end2)
        _add(partial, total, tile, parts, select3(later, size1, size2, size3), ROWS, TURN // ROWS)
