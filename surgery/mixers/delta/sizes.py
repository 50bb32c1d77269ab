"""Sizes of a layer with the delta rule, computed in one place for its costs and its module, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from surgery.config.backbone import Backbone
from surgery.mixers.head_sizes import HeadSizes, match_heads, resolve_heads, value_width

MAX_CONV = 8
UNIT_EPS = 1e-6  # added to the squared length of a query or key


@dataclass(frozen=True)
class StateSizes(HeadSizes):
    """Sizes and switches of a layer.

    `conv` is the width of the short convolution in tokens, 0 for none.
    """

    conv: int
    gate: bool
    decay: bool
    negative_eigenvalues: bool

    @property
    def channels(self) -> int:
        """Channels of q, k and v together, to which the convolution applies."""
        return self.heads * (2 * self.key + self.value)

    @property
    def rates(self) -> int:
        """Number of parameters of the decay other than its linear map: A_log and dt_bias."""
        raise NotImplementedError


Sizes = TypeVar("Sizes", bound=StateSizes)


def resolve_sizes(kind: type[Sizes], backbone: Backbone, options: Mapping[str, Any]) -> Sizes:
    """Return the sizes that result from a mixer's options on this backbone."""
    return resolve_heads(backbone, options, partial(with_key, kind))


def match_sizes(kind: type[Sizes], backbone: Backbone, options: Mapping[str, Any]) -> Sizes:
    """Return the sizes whose number of weights is nearest to that of the softmax attention they replace."""
    return match_heads(backbone, options, partial(with_key, kind))


def with_key(kind: type[Sizes], backbone: Backbone, options: Mapping[str, Any], key: int) -> Sizes:
    """Return the sizes with this width of a head's key."""
    return kind(
        dim=backbone.dim,
        heads=options["heads"] or backbone.num_heads,
        key=key,
        value=value_width(options, key),
        conv=options["conv_size"] if options["conv_size"] > 1 else 0,
        gate=options["gate"],
        decay=options.get("decay", True),
        negative_eigenvalues=options["negative_eigenvalues"],
    )
