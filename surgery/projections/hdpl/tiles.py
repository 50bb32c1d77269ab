"""What the kernels of HDPL's two paths share: which devices and inputs they take, and how tiles lie over
block-diagonal weights.

Rows and columns are counted over the whole matrix. A tile lies within one block, or where blocks are narrow
spans several and treats what is between them as zeros: products are cheap there, reading is not.

Sizes of blocks and ranks are arguments of the kernels and not constants, so that architectures with other
sizes are served by what is compiled already: a search would wait for the compiler more than for the device.
They count UNITs, by which the compiler sees that 16 bytes can be read at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from surgery.ops.kernels import AVAILABLE, block_size, ceil_div, jit, tl

Thing = TypeVar("Thing")

TILE = 128  # tokens, rows or columns
MOST = 3  # siblings that a kernel takes: q k v
PROGRAMS = 132  # that keep all multiprocessors of a large device busy
UNIT = 8  # elements that all sizes are multiples of: 16 bytes
SHARED_BYTES = 160 * 1024  # that tiles may take: an A100 has as many, smaller devices have not


@cache
def room(device: torch.device) -> int:
    """Bytes of shared memory that a block of threads can have; without a device as many as one wants."""
    if device.type != "cuda":
        return 1 << 30
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0))


def fits_tiles(x: Tensor, blocks: Sequence[Tensor], ranks: Sequence[int]) -> bool:
    """Whether the kernels can take this input, and blocks and ranks of these sizes. In float32 the libraries'
    products are the faster ones."""
    known = AVAILABLE and x.is_cuda and x.dtype == torch.bfloat16 and len(x) > 0
    return known and fit_units(blocks, ranks) and room(x.device) >= SHARED_BYTES


def fit_units(blocks: Sequence[Tensor], ranks: Sequence[int]) -> bool:
    """Whether all sizes are multiples of UNIT."""
    return not any(size % UNIT for size in (*ranks, *(size for block in blocks for size in block.shape[1:])))


def units(*sizes: int) -> list[int]:
    """Sizes as kernels take them."""
    return [size // UNIT for size in sizes]


def inner(x: Tensor) -> int:
    """Elements of a step along what a product sums over: 128 bytes."""
    return 128 // x.element_size()


def spanned(blocks: Tensor) -> int:
    """How many of these blocks a tile spans."""
    n, rows, columns = blocks.shape
    return max(1, min(n, TILE // max(rows, columns)))


def tiling(n: int, size: int, span: int) -> tuple[int, int]:
    """(rows of a tile, tiles) of a matrix whose n blocks have `size` rows, `span` of them to a group; of
    columns likewise, as `tile_of` finds them."""
    tile = block_size(span * size, TILE)
    return tile, ceil_div(n, span) * ceil_div(span * size, tile)


def row_stride(slices: Sequence[Tensor]) -> int:
    """From row to row, the same in all slices of one tensor's columns."""
    assert len({part.stride() for part in slices}) == 1, "slices of one tensor"
    assert slices[0].stride(1) == 1, "columns side by side"
    return slices[0].stride(0)


def joined(slices: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """(the columns of one tensor that hold these slices of it, the first column of each in there)."""
    firsts = [int(part.storage_offset() - slices[0].storage_offset()) for part in slices]
    width = max(first + part.shape[1] for first, part in zip(firsts, slices, strict=True))
    return slices[0].as_strided((len(slices[0]), width), (row_stride(slices), 1)), firsts


def lay(tensors: Sequence[Tensor], out: Tensor) -> None:
    """Tensors side by side into one vector."""
    torch.cat([tensor.flatten() for tensor in tensors], out=out)


def alike(tensors: Sequence[Tensor], *more: Sequence[object], most: int = MOST) -> list[list[int]]:
    """Places of tensors of one shape, that agree in everything else given too, at most so many together."""
    found: dict[object, list[list[int]]] = {}
    for place, (tensor, *others) in enumerate(zip(tensors, *more, strict=True)):
        sets = found.setdefault((tensor.shape, *others), [[]])
        if len(sets[-1]) == most:
            sets.append([])
        sets[-1].append(place)
    return [places for sets in found.values() for places in sets]


def filled(found: Sequence[Thing], most: int = MOST) -> list[Thing]:
    """As many as a kernel takes; the last stands in for those that are not there and are never read."""
    return [*found, *[found[-1]] * (most - len(found))]


@jit
def choose(sibling, first, second, third):  # type: ignore[no-untyped-def]
    """The pointer of this sibling."""
    found = first
    if sibling == 1:
        found = second
    if sibling == 2:
        found = third
    return found


@jit
def pick(number, first, second, third, fourth):  # type: ignore[no-untyped-def]
    """What belongs to this number, from 0 to 3."""
    last = tl.where(number == 2, third, fourth)
    return tl.where(number == 0, first, tl.where(number == 1, second, last))


@jit
def place(row, column, group, end, rows, columns, SPANS: tl.constexpr):  # type: ignore[no-untyped-def]
    """(column within the row's own block, whether it is there), for a tile's rows and columns, brought to
    matching shapes, of which the first are those of the group's first block and which end before block `end`.
    SPANS: whether a group has several blocks."""
    if SPANS:
        within = column - row // rows * columns
        there = (row < end * rows) & (within >= 0) & (within < columns)
    else:
        within = column - group * columns
        there = (row < end * rows) & (within < columns)
    return within, there


@jit
def tile_of(part, n, size, span, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """(number of its group of `span` blocks, the block behind the group, rows) of a tile, WIDE rows of a
    matrix whose n blocks have `size`; of columns likewise."""
    of_group = (span * size + WIDE - 1) // WIDE
    group = part // of_group
    end = tl.minimum((group + 1) * span, n)
    return group, end, group * span * size + part % of_group * WIDE + tl.arange(0, WIDE)
