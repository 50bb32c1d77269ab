"""Sizes of a Mamba-2 layer, computed in one place for its costs and its module, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.config.backbone import Backbone
from surgery.mixers.head_sizes import HeadSizes, nearest

MAX_EXPAND = 4.0
MAX_STATE, MAX_WIDTH, MAX_GROUPS = 512, 512, 64


@dataclass(frozen=True)
class MambaSizes(HeadSizes):
    """Sizes of a layer.

    Heads of a group share their queries and keys (C and B in the paper), of width `key`. `value` is the width
    of a head, `conv` that of the short convolution in tokens, 0 for none.
    """

    groups: int
    conv: int

    @property
    def inner(self) -> int:
        """Channels of all values."""
        return self.heads * self.value

    @property
    def channels(self) -> int:
        """Channels of q, k and v together, to which the convolution applies."""
        return 2 * self.groups * self.key + self.inner

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of q k v o."""
        keys = self.groups * self.key
        return {
            "q": (self.dim, keys),
            "k": (self.dim, keys),
            "v": (self.dim, self.inner),
            "o": (self.inner, self.dim),
        }

    @property
    def maps(self) -> int:
        """Number of weights of the output gate and of the steps of the heads."""
        return self.dim * (self.inner + self.heads)


def resolve(backbone: Backbone, options: Mapping[str, Any]) -> MambaSizes:
    """Return the sizes that result from a mixer's options on this backbone."""
    if not options["expand"]:
        return matched(backbone, options)
    channels = (options["head_dim"] or backbone.head_dim) * options["groups"]
    return _sizes(backbone, options, max(1, round(options["expand"] * backbone.dim / channels)))


def matched(backbone: Backbone, options: Mapping[str, Any]) -> MambaSizes:
    """Return the sizes whose number of weights is nearest to that of the softmax attention they replace."""
    return nearest(backbone, lambda heads: _sizes(backbone, options, heads))


def _sizes(backbone: Backbone, options: Mapping[str, Any], heads: int) -> MambaSizes:
    """Return the sizes with so many heads per group."""
    return MambaSizes(
        dim=backbone.dim,
        heads=heads * options["groups"],
        key=options["state_size"],
        value=options["head_dim"] or backbone.head_dim,
        groups=options["groups"],
        conv=options["conv_size"] if options["conv_size"] > 1 else 0,
    )
