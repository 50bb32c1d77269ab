"""Triton, where there is one: what the files of kernels import. Nothing else in this package imports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

try:  # inside `try`, so that transformers does not ask for it where a model's source is loaded
    import triton
    import triton.language as tl
except ImportError:  # no CUDA build of torch: plain torch does all work
    triton = tl = None

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:
    TensorDescriptor = None

__all__ = [
    "AVAILABLE",
    "block_size",
    "ceil_div",
    "jit",
    "jit_once",
    "readable_by_tile",
    "tile_reader",
    "tl",
]

AVAILABLE = triton is not None


def readable_by_tile(*matrices: Tensor) -> bool:
    """Whether the device has a unit that copies tiles by itself (TMA), Triton can ask it to, and these
    matrices begin, as do their rows, at multiples of 16 bytes."""
    aligned = all(
        m.data_ptr() % 16 == 0 and m.stride(0) * m.element_size() % 16 == 0 and m.stride(1) == 1
        for m in matrices
    )
    return aligned and all(_copies_tiles(m.device) for m in matrices)


@cache
def _copies_tiles(device: torch.device) -> bool:
    """Without a device, that is where kernels are interpreted, Triton alone counts."""
    if TensorDescriptor is None or torch.version.hip is not None:
        return False
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 9


def tile_reader(matrix: Tensor, tile: Sequence[int]) -> Any:
    """A matrix as a kernel's argument of which that unit copies tiles of one size; zeros are read beyond its
    edges."""
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), list(tile))


def jit(kernel: Callable[..., Any]) -> Any:
    """`triton.jit`; without Triton the function itself, which nobody calls then."""
    return triton.jit(kernel) if AVAILABLE else kernel


def jit_once(*numbers: str) -> Callable[[Callable[..., Any]], Any]:
    """`jit` for a kernel that is not to be compiled anew where these arguments are 1, multiples of 16 or
    neither."""
    if not AVAILABLE:
        return lambda kernel: kernel
    made: Callable[..., Any] = triton.jit(do_not_specialize=numbers, do_not_specialize_on_alignment=numbers)
    return made


def ceil_div(amount: int, step: int) -> int:
    """How many steps hold the amount."""
    return -(-amount // step)


def block_size(width: int, most: int | None = None) -> int:
    """The power of two, at least the 16 that matrix units want and at most `most`, that holds a width."""
    block = max(16, 1 << max(0, width - 1).bit_length())
    return min(block, most) if most is not None else block
