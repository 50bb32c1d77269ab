"""Sizes of a retention layer, computed in one place for its costs and its module, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.config.backbone import Backbone
from surgery.mixers.head_sizes import HeadSizes, resolve_heads, value_width


@dataclass(frozen=True)
class RetentionSizes(HeadSizes):
    """Sizes of a layer. `rotary` is the width of the backbone's heads, for which its angles are computed."""

    rotary: int
    gate: bool

    @property
    def maps(self) -> int:
        """Number of weights of the output gate."""
        return self.dim * self.heads * self.value * self.gate


def resolve(backbone: Backbone, options: Mapping[str, Any]) -> RetentionSizes:
    """Return the sizes that result from a mixer's options on this backbone."""
    return resolve_heads(backbone, options, build)


def build(backbone: Backbone, options: Mapping[str, Any], key: int) -> RetentionSizes:
    """Return the sizes with this width of a head's key."""
    return RetentionSizes(
        dim=backbone.dim,
        heads=options["heads"] or backbone.num_heads,
        key=key,
        value=value_width(options, key),
        rotary=backbone.head_dim,
        gate=options["gate"],
    )
