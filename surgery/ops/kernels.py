"""Optional import of Triton and helpers for kernels. No other module of this package imports Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

try:  # inside `try`, so that transformers does not require it when it loads a model's source
    import triton
    import triton.language as tl
except ImportError:  # no CUDA build of torch: plain torch is used
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
    """Return whether tiles of these matrices can be copied by the tensor memory accelerator (TMA).

    The device and Triton must support it, and matrices and rows must start at multiples of 16 bytes.
    """
    aligned = all(
        m.data_ptr() % 16 == 0 and m.stride(0) * m.element_size() % 16 == 0 and m.stride(1) == 1
        for m in matrices
    )
    return aligned and all(_copies_tiles(m.device) for m in matrices)


@cache
def _copies_tiles(device: torch.device) -> bool:
    """Return whether device and Triton support TMA; in Triton's interpreter only the latter matters."""
    if TensorDescriptor is None or torch.version.hip is not None:
        return False
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 9


def tile_reader(matrix: Tensor, tile: Sequence[int]) -> Any:
    """Return a kernel argument for copying tiles of a matrix by TMA; zeros are read beyond its edges."""
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), list(tile))


def jit(kernel: Callable[..., Any]) -> Any:
    """`triton.jit`, or the plain function if Triton is missing (never called in that case)."""
    return triton.jit(kernel) if AVAILABLE else kernel


def jit_once(*numbers: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a `jit` that does not specialise the kernel on the values of these arguments.

    Triton otherwise compiles variants for arguments that are 1, multiples of 16, or neither.
    """
    if not AVAILABLE:
        return lambda kernel: kernel
    decorator: Callable[..., Any] = triton.jit(
        do_not_specialize=numbers, do_not_specialize_on_alignment=numbers
    )
    return decorator


def ceil_div(amount: int, step: int) -> int:
    """Return amount / step, rounded up."""
    return -(-amount // step)


def block_size(width: int, most: int | None = None) -> int:
    """Return the smallest power of two of at least `width` and 16 (tensor cores), but at most `most`."""
    block = max(16, 1 << max(0, width - 1).bit_length())
    return min(block, most) if most is not None else block
