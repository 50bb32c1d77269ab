"""Sizes of a Kimi Delta Attention layer, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.config.backbone import Backbone
from surgery.mixers.delta.sizes import StateSizes, resolve_sizes


@dataclass(frozen=True)
class KimiSizes(StateSizes):
    """Sizes of a layer with one decay per key channel."""

    @property
    def rank(self) -> int:
        """Inner width of the low-rank maps to the decay and the output gate: that of a head's value."""
        return self.value

    @property
    def maps(self) -> int:
        """Number of weights of the linear maps other than the projections: output gate, beta, decay."""
        keys, values = self.heads * self.key, self.heads * self.value
        low_rank = self.dim + keys + self.gate * (self.dim + values)
        return self.rank * low_rank + self.dim * self.heads

    @property
    def rates(self) -> int:
        """Number of parameters of the decay other than its map: A_log per head, dt_bias per channel."""
        return self.heads + self.heads * self.key


def resolve(backbone: Backbone, options: Mapping[str, Any]) -> KimiSizes:
    """Return the sizes that result from a mixer's options on this backbone."""
    return resolve_sizes(KimiSizes, backbone, options)
