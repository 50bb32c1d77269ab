"""Sizes of Native Sparse Attention's blocks, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

BRANCHES = 3  # compressed blocks, selected blocks, and the window


class Sizes(NamedTuple):
    """Sizes of the three branches; the paper's symbols are in brackets.

    Attributes:
        block: tokens of a selected block (l').
        pooled: tokens of a compressed block (l).
        stride: tokens from the start of a compressed block to that of the next (d).
        blocks: blocks that a query selects (n), its own, the one before and the first among them.
        window: tokens that the third branch sees, the query's own included (w).
    """

    block: int
    pooled: int
    stride: int
    blocks: int
    window: int

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Sizes:
        """Read the mixer's options, in which 0 is the size that another one has."""
        pooled = options["pooled"] or options["block"]
        stride = options["stride"] or pooled
        return cls(options["block"], pooled, stride, options["blocks"], options["window"])

    def complete(self, tokens: int) -> int:
        """Return how many compressed blocks the first `tokens` tokens fill."""
        return max(0, (tokens - self.pooled) // self.stride + 1)

    def total_complete(self, length: int) -> int:
        """Return the sum of `complete` over 1 .. length tokens."""
        whole, rest = divmod(max(0, length - self.pooled + 1), self.stride)
        return self.stride * whole * (whole + 1) // 2 + rest * (whole + 1)
