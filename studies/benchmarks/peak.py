"""How fast a device multiplies matrices: what the arithmetic of models is measured against."""

from __future__ import annotations

import torch

from studies.benchmarks.timing import timed

ROUNDS = 7


def peak_flops(device: torch.device) -> float:
    """FLOPs a second, 2 a multiply-add, of a large product in the number format of training here."""
    # matrices large enough to be multiplied as fast as any
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: left @ right, device) for _ in range(ROUNDS))
