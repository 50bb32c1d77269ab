"""Peak matrix-multiplication throughput of a device, the reference for models' FLOPs/s."""

from __future__ import annotations

import torch

from studies.latency.timing import timed

ROUNDS = 7


def peak_flops(device: torch.device) -> float:
    """Return the FLOPs/s (2 per multiply-add) of a large matrix product in the device's training dtype."""
    # matrices large enough to reach the peak
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: left @ right, device) for _ in range(ROUNDS))
