"""How fast a device multiplies matrices: what the arithmetic of models is measured against."""

from __future__ import annotations

import torch

from studies.benches.timing import timed
from studies.devices import autocast

SIDE = {"cuda": 8192}  # of square matrices large enough to be as fast as any
SIDE_ELSEWHERE = 1024
ROUNDS = 7


def peak_flops(device: torch.device) -> float:
    """FLOPs a second, 2 a multiply-add, of a large product in the number format of training here."""
    side = SIDE.get(device.type, SIDE_ELSEWHERE)
    left, right = (torch.randn(side, side, device=device) for _ in range(2))
    with torch.no_grad(), autocast(device):
        dtype = (left[:1] @ right).dtype
        left, right = left.to(dtype), right.to(dtype)
        return 2 * side**3 / min(timed(lambda: left @ right, device) for _ in range(ROUNDS))
