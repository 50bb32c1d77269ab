"""Common helpers of the kernels of HDPL's two paths: supported inputs, and tiling of block-diagonal weights.

Rows and columns are counted over the whole matrix. A tile is within one block, or, for narrow blocks, spans
several and treats the elements between them as zeros: products are cheap there, reads are not.

Sizes of blocks and ranks are arguments of the kernels instead of constants, so that architectures of other
sizes use the same compiled code: compilation would otherwise dominate a search. They are counted in UNITs,
from which the compiler infers that 16 bytes can be read at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from surgery.ops.kernels import AVAILABLE, block_size, ceil_div, jit, tl

Item = TypeVar("Item")

TILE = 128  # tokens, rows or columns
MOST = 3  # siblings per launch: q k v
PROGRAMS = 132  # keep all multiprocessors of a large device busy
UNIT = 8  # all sizes are multiples of this number of elements: 16 bytes
SHARED_BYTES = 160 * 1024  # shared memory needed by tiles; an A100 has it, smaller devices do not


@cache
def shared_memory_bytes(device: torch.device) -> int:
    """Return the maximal shared memory of a thread block in bytes; unlimited on the CPU (interpreter)."""
    if device.type != "cuda":
        return 1 << 30
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0))


def fits_tiles(x: Tensor, blocks: Sequence[Tensor], ranks: Sequence[int]) -> bool:
    """Return whether the kernels support this input, and blocks and ranks of these sizes.

    Only in bfloat16: in float32 the products of libraries are faster.
    """
    fits_input = AVAILABLE and x.is_cuda and x.dtype == torch.bfloat16 and len(x) > 0
    return fits_input and fit_units(blocks, ranks) and shared_memory_bytes(x.device) >= SHARED_BYTES


def fit_units(blocks: Sequence[Tensor], ranks: Sequence[int]) -> bool:
    """Return whether all sizes are multiples of UNIT."""
    return not any(size % UNIT for size in (*ranks, *(size for block in blocks for size in block.shape[1:])))


def units(*sizes: int) -> list[int]:
    """Convert sizes from elements to UNITs, as kernels expect them."""
    return [size // UNIT for size in sizes]


def inner(x: Tensor) -> int:
    """Return the elements per iteration along a product's summed dimension: 128 bytes."""
    return 128 // x.element_size()


def spanned(blocks: Tensor) -> int:
    """Return the number of blocks that a tile spans."""
    n, rows, columns = blocks.shape
    return max(1, min(n, TILE // max(rows, columns)))


def tiling(n: int, size: int, span: int) -> tuple[int, int]:
    """Return (rows per tile, number of tiles) of a matrix with n blocks of `size` rows, in groups of `span`.

    The same for columns. `tile_of` is the inverse in kernels.
    """
    tile = block_size(span * size, TILE)
    return tile, ceil_div(n, span) * ceil_div(span * size, tile)


def row_stride(slices: Sequence[Tensor]) -> int:
    """Return the row stride, which must be the same for all column slices of a tensor."""
    assert len({part.stride() for part in slices}) == 1, "slices of one tensor"
    assert slices[0].stride(1) == 1, "contiguous columns"
    return slices[0].stride(0)


def joined(slices: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Return (view of the columns that contain all these slices of a tensor, first column of each slice)."""
    firsts = [int(part.storage_offset() - slices[0].storage_offset()) for part in slices]
    width = max(first + part.shape[1] for first, part in zip(firsts, slices, strict=True))
    return slices[0].as_strided((len(slices[0]), width), (row_stride(slices), 1)), firsts


def concat_into(tensors: Sequence[Tensor], out: Tensor) -> None:
    """Concatenate the flattened tensors into the vector `out`."""
    torch.cat([tensor.flatten() for tensor in tensors], out=out)


def group_by_shape(tensors: Sequence[Tensor], *more: Sequence[object], most: int = MOST) -> list[list[int]]:
    """Group the indices of tensors that have the same shape and equal entries in all of `more`.

    Groups have at most `most` members.
    """
    groups: dict[object, list[list[int]]] = {}
    for index, (tensor, *others) in enumerate(zip(tensors, *more, strict=True)):
        parts = groups.setdefault((tensor.shape, *others), [[]])
        if len(parts[-1]) == most:
            parts.append([])
        parts[-1].append(index)
    return [part for parts in groups.values() for part in parts]


def pad_args(items: Sequence[Item], most: int = MOST) -> list[Item]:
    """Repeat the last item up to the number of arguments that a kernel has; the copies are never read."""
    return [*items, *[items[-1]] * (most - len(items))]


@jit
def select3(sibling, first, second, third):  # type: ignore[no-untyped-def]
    """Return the argument of sibling 0, 1 or 2."""
    selected = first
    if sibling == 1:
        selected = second
    if sibling == 2:
        selected = third
    return selected


@jit
def select4(number, first, second, third, fourth):  # type: ignore[no-untyped-def]
    """Return the argument with this number, from 0 to 3."""
    last = tl.where(number == 2, third, fourth)
    return tl.where(number == 0, first, tl.where(number == 1, second, last))


@jit
def block_column(row, column, group, end, rows, columns, SPANS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return (column within the row's block, mask of elements inside it) for a tile's rows and columns.

    Rows and columns have broadcastable shapes; they start at the group's first block and end before block
    `end`. SPANS: whether a group has several blocks.
    """
    if SPANS:
        within = column - row // rows * columns
        there = (row < end * rows) & (within >= 0) & (within < columns)
    else:
        within = column - group * columns
        there = (row < end * rows) & (within < columns)
    return within, there


@jit
def tile_of(part, n, size, span, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return (index of the group of `span` blocks, first block after the group, rows) of tile `part`.

    A tile has WIDE rows of a matrix with n blocks of `size` rows. The same for columns.
    """
    of_group = (span * size + WIDE - 1) // WIDE
    group = part // of_group
    end = tl.minimum((group + 1) * span, n)
    return group, end, group * span * size + part % of_group * WIDE + tl.arange(0, WIDE)
