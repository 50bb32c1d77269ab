"""Triton, where there is one: what the files of kernels import. Nothing else in this package imports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:  # inside `try`, so that transformers does not ask for it where a model's source is loaded
    import triton
    import triton.language as tl
except ImportError:  # no CUDA build of torch: plain torch does all work
    triton = tl = None

__all__ = ["AVAILABLE", "block_size", "ceil_div", "jit", "jit_once", "tl"]

AVAILABLE = triton is not None


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
