"""Heads and widths of linear mixers, as wide by default as the softmax attention that they replace.

Without torch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.softmax import attention_projections

# Widths of a head. Key widths are multiples of 8, as tensor cores require. Neither keys nor values are
# narrower: the norm of a few numbers preserves little more than their signs (at width 4, bfloat16 changed the
# outputs of a toy model by 17 %; at 8, by 7 %).
STEP = 8
MAX_KEY_RATIO = 4.0
MIN_EXPAND, MAX_EXPAND = 0.25, 4.0
MAX_HEADS = 256

KEY_RATIO = Option(
    float, 0.0, low=0, high=MAX_KEY_RATIO,
    help="width of all keys / dim; 0: as many weights as the softmax attention it replaces",
)  # fmt: skip
HEADS = Option(int, 0, low=0, high=MAX_HEADS, help="heads; 0: as many as the backbone's num_heads")


def expand_v(default: float) -> Option:
    """Return the option of the ratio of widths of values and keys."""
    return Option(
        float, default, low=MIN_EXPAND, high=MAX_EXPAND, help="width of a head's value / width of its key"
    )


@dataclass(frozen=True)
class HeadSizes:
    """Sizes of a mixer of q k v o. `key` and `value` are widths of one head."""

    dim: int
    heads: int
    key: int
    value: int

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
    def state(self) -> int:
        """Number of entries of the states of all heads."""
        return self.heads * self.key * self.value

    @property
    def maps(self) -> int:
        """Number of weights of the linear maps other than the projections."""
        return 0

    @property
    def matrices(self) -> int:
        """Number of weights of all linear maps."""
        return sum(d_in * d_out for d_in, d_out in self.projections.values()) + self.maps


def value_width(options: Mapping[str, Any], key: int) -> int:
    """Return the width of a head's value, from that of its key and `expand_v`."""
    width: float = key * options["expand_v"]
    return max(STEP, round(width))


S = TypeVar("S", bound=HeadSizes)
Build = Callable[[Backbone, Mapping[str, Any], int], S]  # sizes of heads, from the width of a key


def resolve_heads(backbone: Backbone, options: Mapping[str, Any], build: Build[S]) -> S:
    """Return the sizes by `key_ratio`, whose 0 is a match of softmax attention's weights."""
    if not options["key_ratio"]:
        return match_heads(backbone, options, build)
    width = options["key_ratio"] * backbone.dim / (options["heads"] or backbone.num_heads)
    return build(backbone, options, STEP * max(1, round(width / STEP)))


def match_heads(backbone: Backbone, options: Mapping[str, Any], build: Build[S]) -> S:
    """Return the sizes whose number of weights is nearest to that of the softmax attention they replace."""
    return nearest(backbone, lambda steps: build(backbone, options, STEP * steps))


def nearest(backbone: Backbone, build: Callable[[int], S]) -> S:
    """Return those of the sizes build(1), build(2), ... whose weights are nearest to softmax attention's.

    Args:
        backbone: sizes of the model, and so of the attention.
        build: sizes of a mixer whose `matrices` grow at least linearly, but for the rounding of widths.
    """
    target = sum(d_in * d_out for d_in, d_out in attention_projections(backbone).values())

    def weights(steps: int) -> int:
        return build(steps).matrices

    most = 3 + max(0, (target - weights(1)) // (weights(2) - weights(1)))
    enough = 1 + bisect_left(range(1, most), target, key=weights)
    return min(
        (build(max(1, steps)) for steps in (enough - 1, enough)),
        key=lambda sizes: abs(sizes.matrices - target),
    )


def canonical_heads(backbone: Backbone, options: Mapping[str, Any], build: Build[S]) -> dict[str, Any]:
    """Return the options from the resolved sizes, so that options that round to one size are equal."""
    sizes = resolve_heads(backbone, options, build)
    same = {
        **options,
        "heads": 0 if sizes.heads == backbone.num_heads else sizes.heads,
        # clamped if rounding exceeded the bound; the clamped value rounds to the same width
        "expand_v": min(MAX_EXPAND, max(MIN_EXPAND, sizes.value / sizes.key)),
    }
    ratio = min(MAX_KEY_RATIO, sizes.heads * sizes.key / sizes.dim)
    return {**same, "key_ratio": 0.0 if match_heads(backbone, same, build).key == sizes.key else ratio}
