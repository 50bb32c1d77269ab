"""Kinds of architecture that the proxy misjudges: longer training moves their ranks one way.

What learns late, such as a looped stack, stands too low after a short run, and a correlation over all
architectures does not say so. For every kind the mean number of places that longer training moves it up is
held against those of equally many architectures drawn at random (a permutation test, Pitman 1937), and p is
corrected for the number of kinds (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.stats.rank_correlation import Array, Estimate, bootstrap, ranks, shuffled, spearman
from surgery.architecture import Architecture
from surgery.mixers import MIXER_WORDS

LEVEL = 0.05
FEWEST, OTHERS = 2, 8  # of a kind, and beside it, where a correlation is told
DRAWS = 5000


@dataclass(frozen=True)
class Misjudged:
    """A kind that the proxy ranks too low (`places` > 0) or too high.

    Attributes:
        kind: such as `that loop`.
        count: architectures of it.
        places: that longer training moves it up, on average.
        p: two-sided, corrected.
        others: the proxy's Spearman with the long loss among all others.
    """

    kind: str
    count: int
    places: float
    p: float
    others: Estimate

    def __str__(self) -> str:
        where = "low" if self.places > 0 else "high"
        return (
            f"the proxy puts architectures {self.kind} {abs(self.places):.1f} places too {where} "
            f"({self.count} of them, p = {self.p:.2g}); Spearman without them: {self.others}"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "architectures": self.count,
            "places_too_low": self.places,
            "p": self.p,
            "spearman_without": self.others.to_list(),
        }


def misjudged(architectures: Sequence[Architecture], proxy: Array, long: Array) -> list[Misjudged]:
    """Those with p at most LEVEL, the surest first. `proxy` and `long`: their losses, in nats/token."""
    moved = ranks(proxy) - ranks(long)
    tested = []
    for kind, inside in _kinds(architectures).items():
        count = int(inside.sum())
        if FEWEST <= count <= len(inside) - OTHERS:
            places = float(moved[inside].mean())
            tested.append((_p(moved, count, places), kind, count, places, ~inside))
    found, corrected = [], 0.0
    for rank, (p, kind, count, places, others) in enumerate(sorted(tested, key=lambda item: item[:2])):
        corrected = max(corrected, min(1.0, p * (len(tested) - rank)))
        if corrected <= LEVEL:
            left = bootstrap(spearman, proxy[others], long[others])
            found.append(Misjudged(kind, count, places, corrected, left))
    return found


def _kinds(architectures: Sequence[Architecture]) -> Mapping[str, NDArray[np.bool_]]:
    """Which architectures are of each kind: what few have or few lack, so that the others are many."""
    traits = [
        ("that loop", "that do not loop", [item.loop_count > 1 for item in architectures]),
        ("with HDPL", "without HDPL", [_has_hdpl(item) for item in architectures]),
    ]
    for letter, word in MIXER_WORDS.items():
        traits.append((f"with {word}", f"without {word}", [letter in item.layout for item in architectures]))
    found = {}
    for having, lacking, has in traits:
        inside = np.array(has, dtype=bool)
        few = inside.sum() * 2 <= len(inside)
        found[having if few else lacking] = inside if few else ~inside
    return found


def _has_hdpl(architecture: Architecture) -> bool:
    return any(item.name == "hdpl" for layer in architecture.layers for item in layer.projections.values())


def _p(moved: Array, count: int, mean: float) -> float:
    """Share of draws of `count` architectures that moved as far, this one among them."""
    drawn = shuffled(moved, DRAWS)[:, :count].mean(1)
    return float((1 + (np.abs(drawn) >= abs(mean) - 1e-9).sum()) / (1 + DRAWS))
