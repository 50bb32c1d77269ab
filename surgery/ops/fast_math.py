"""Approximate math functions for kernels, computed by the GPU's special function units.

Errors are about 1e-6; Triton's own functions also handle subnormal numbers, at several times the cost. These
are used in Triton's interpreter and on other devices.
"""

from __future__ import annotations

import os

import torch

from surgery.ops.kernels import jit, tl

try:  # as in `kernels.py`
    from triton.language.extra.cuda import libdevice
except ImportError:
    libdevice = None

if libdevice is not None and torch.version.hip is None and os.environ.get("TRITON_INTERPRET") != "1":
    exp2, log2 = libdevice.exp2, libdevice.fast_log2f
    sin, cos = libdevice.fast_sinf, libdevice.fast_cosf  # of angles up to a full turn
    divide = libdevice.fast_dividef
else:

    @jit
    def exp2(x):  # type: ignore[no-untyped-def]
        """Return 2^x."""
        return tl.exp2(x)

    @jit
    def log2(x):  # type: ignore[no-untyped-def]
        """Return the logarithm of x to base 2."""
        return tl.log2(x)

    @jit
    def sin(x):  # type: ignore[no-untyped-def]
        """Return the sine of x."""
        return tl.sin(x)

    @jit
    def cos(x):  # type: ignore[no-untyped-def]
        """Return the cosine of x."""
        return tl.cos(x)

    @jit
    def divide(x, y):  # type: ignore[no-untyped-def]
        """Return x / y."""
        return x / y
