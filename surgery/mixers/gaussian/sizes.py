"""Sizes that the costs and the module of Gaussian-kernel attention share, without torch."""

from __future__ import annotations

PAD = 8  # fused attention kernels take head sizes in multiples of 8
