"""Sizes of a Gated DeltaNet layer, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.config.backbone import Backbone
from surgery.mixers.delta.sizes import StateSizes, match_sizes, resolve_sizes


@dataclass(frozen=True)
class DeltaSizes(StateSizes):
    """Sizes of a layer with one decay per head."""

    @property
    def maps(self) -> int:
        """Number of weights of the linear maps other than the projections: output gate, beta, decay."""
        return self.dim * self.heads * (self.gate * self.value + 1 + self.decay)

    @property
    def rates(self) -> int:
        """Number of parameters of the decay other than its linear map: A_log and dt_bias, one per head."""
        return 2 * self.heads if self.decay else 0


def resolve(backbone: Backbone, options: Mapping[str, Any]) -> DeltaSizes:
    """Return the sizes that result from a mixer's options on this backbone."""
    return resolve_sizes(DeltaSizes, backbone, options)


def matched(backbone: Backbone, options: Mapping[str, Any]) -> DeltaSizes:
    """Return the sizes whose number of weights is nearest to that of the softmax attention they replace."""
    return match_sizes(DeltaSizes, backbone, options)
