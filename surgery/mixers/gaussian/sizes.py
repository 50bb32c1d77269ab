"""Sizes used by the costs and by the module of Gaussian-kernel attention, without torch."""

from __future__ import annotations

PAD = 8  # fused attention kernels require head sizes in multiples of 8
