"""The device of tests of kernels: CUDA, else Triton's interpreter (TRITON_INTERPRET=1 and installed)."""

from __future__ import annotations

import os

import pytest
import torch

from surgery.ops.kernels import AVAILABLE

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
RUNS = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (AVAILABLE and (INTERPRETED or torch.cuda.is_available())), reason="needs Triton and CUDA"
    ),
]
TRANSLATES = pytest.mark.skipif(not AVAILABLE or INTERPRETED, reason="needs Triton, not interpreted")

DTYPES = {torch.float32: 2e-5, torch.bfloat16: 1e-2}  # of a tensor's norm that an error may have
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
