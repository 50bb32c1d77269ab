"""Sizes of a Gated DeltaNet layer, computed in one place for its costs and its module, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
class DeltaSizes:
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
        """Number of weights of the linear maps other than the projections: output gate, beta, decay."""
        return self.dim * self.heads * (self.gate * self.value + 1 + self.decay)

    @property
    def matrices(self) -> int:
        """Number of weights of all linear maps."""
        return sum(d_in * d_out for d_in, d_out in self.projections.values()) + self.maps


def resolve(backbone: Backbone, options: Mapping[str, Any]) -> DeltaSizes:
    """Return the sizes that result from a mixer's options on this backbone."""
    key = 0
    if options["key_ratio"]:
        key = to_grid(options["key_ratio"] * backbone.dim / (options["heads"] or backbone.num_heads))
    return _sizes(backbone, options, key) if key else matched(backbone, options)


def to_grid(width: float) -> int:
    """Round a key width to the nearest positive multiple of STEP."""
    return STEP * max(1, round(width / STEP))


def matched(backbone: Backbone, options: Mapping[str, Any]) -> DeltaSizes:
    """Return the sizes whose number of weights is nearest to that of the softmax attention they replace."""
    target = sum(d_in * d_out for d_in, d_out in attention_projections(backbone).values())
    one, two = (_sizes(backbone, options, key).matrices for key in (STEP, 2 * STEP))
    guess = 1 + (target - one) // (two - one)  # in steps; off by the rounding of value widths
    candidates = [_sizes(backbone, options, STEP * max(1, guess + offset)) for offset in range(-1, 3)]
    return min(candidates, key=lambda sizes: (abs(sizes.matrices - target), sizes.key))


def _sizes(backbone: Backbone, options: Mapping[str, Any], key: int) -> DeltaSizes:
    return DeltaSizes(
        dim=backbone.dim,
        heads=options["heads"] or backbone.num_heads,
        key=key,
        value=max(STEP, round(key * options["expand_v"])),
        conv=options["conv_size"] if options["conv_size"] > 1 else 0,
        gate=options["gate"],
        decay=options["decay"],
        negative_eigenvalues=options["negative_eigenvalues"],
    )
