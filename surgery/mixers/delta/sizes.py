"""Sizes of a layer with the delta rule, computed in one place for its costs and its module, without torch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from surgery.config.backbone import Backbone
from surgery.mixers.softmax import attention_projections

# Widths of a head. Key widths are multiples of 8, as tensor cores require. Neither keys nor values are
# narrower: the norm of a few numbers preserves little more than their signs (at width 4, bfloat16 changed the
# outputs of a toy model by 17 %; at 8, by 7 %).
STEP = 8
MAX_KEY_RATIO = 4.0
MIN_EXPAND, MAX_EXPAND = 0.25, 4.0
MAX_HEADS, MAX_CONV = 256, 8
UNIT_EPS = 1e-6  # added to the squared length of a query or key


@dataclass(frozen=True)
class StateSizes:
    """Sizes and switches of a layer.

    `key` and `value` are widths of one head; `conv` is the width of the short convolution in tokens, 0 for
    none.
    """

    dim: int
    heads: int
    key: int
    value: int
    conv: int
    gate: bool
    decay: bool
    negative_eigenvalues: bool

    @property
    def channels(self) -> int:
        """Channels of q, k and v together, to which the convolution applies."""
        return self.heads * (2 * self.key + self.value)

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of q k v o."""
        keys, values = self.heads * self.key, self.heads * self.value
        return {
            "q": (self.dim, keys),
            "k": (self.dim, keys),
            "v": (self.dim, values),
            "o": (values, self.dim),
        }

    @property
    def maps(self) -> int:
        """Number of weights of the linear maps other than the projections."""
        raise NotImplementedError

    @property
    def rates(self) -> int:
        """Number of parameters of the decay other than its linear map: A_log and dt_bias."""
        raise NotImplementedError

    @property
    def matrices(self) -> int:
        """Number of weights of all linear maps."""
        return sum(d_in * d_out for d_in, d_out in self.projections.values()) + self.maps


Sizes = TypeVar("Sizes", bound=StateSizes)


def resolve_sizes(kind: type[Sizes], backbone: Backbone, options: Mapping[str, Any]) -> Sizes:
    """Return the sizes that result from a mixer's options on this backbone."""
    key = 0
    if options["key_ratio"]:
        key = to_grid(options["key_ratio"] * backbone.dim / (options["heads"] or backbone.num_heads))
    return _sizes(kind, backbone, options, key) if key else match_sizes(kind, backbone, options)


def to_grid(width: float) -> int:
    """Round a key width to the nearest positive multiple of STEP."""
    return STEP * max(1, round(width / STEP))


def match_sizes(kind: type[Sizes], backbone: Backbone, options: Mapping[str, Any]) -> Sizes:
    """Return the sizes whose number of weights is nearest to that of the softmax attention they replace."""
    target = sum(d_in * d_out for d_in, d_out in attention_projections(backbone).values())

    def weights(steps: int) -> int:
        return _sizes(kind, backbone, options, STEP * steps).matrices

    # weights grow at least linearly with the key, but for the rounding of value widths
    most = 3 + max(0, (target - weights(1)) // (weights(2) - weights(1)))
    enough = 1 + bisect_left(range(1, most), target, key=weights)
    return min(
        (_sizes(kind, backbone, options, STEP * max(1, steps)) for steps in (enough - 1, enough)),
        key=lambda sizes: abs(sizes.matrices - target),
    )


def _sizes(kind: type[Sizes], backbone: Backbone, options: Mapping[str, Any], key: int) -> Sizes:
    return kind(
        dim=backbone.dim,
        heads=options["heads"] or backbone.num_heads,
        key=key,
        value=max(STEP, round(key * options["expand_v"])),
        conv=options["conv_size"] if options["conv_size"] > 1 else 0,
        gate=options["gate"],
        decay=options.get("decay", True),
        negative_eigenvalues=options["negative_eigenvalues"],
    )
