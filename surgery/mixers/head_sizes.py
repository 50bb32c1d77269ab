"""Heads and widths of linear mixers, as wide by default as the softmax attention that they replace.

Without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.gdn.sizes import MAX_EXPAND, MAX_HEADS, MAX_KEY_RATIO, MIN_EXPAND, STEP
from surgery.mixers.softmax import attention_projections

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
        build: sizes of a mixer whose `matrices` grow about linearly with the argument.
    """
    target = sum(d_in * d_out for d_in, d_out in attention_projections(backbone).values())
    one, two = build(1).matrices, build(2).matrices
    guess = 1 + (target - one) // (two - one)  # off by the rounding of widths
    candidates = [build(max(1, guess + offset)) for offset in range(-1, 3)]
    return min(candidates, key=lambda sizes: abs(sizes.matrices - target))  # the smallest of equals


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
