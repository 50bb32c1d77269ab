"""Kinds of architecture that the proxy misjudges: longer training shifts their ranks in one direction.

Architectures that learn late, such as looped stacks, rank too low after a short run, which a correlation over
all architectures does not reveal. For every kind the mean rank shift by longer training is compared with that
of equally many random architectures (a permutation test, Pitman 1937), and p is corrected for the number of
kinds (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.stats.rank_correlation import Array, Estimate, bootstrap, spearman
from surgery.architecture import Architecture
from surgery.mixers import MIXER_WORDS

LEVEL = 0.05
FEWEST, OTHERS = 2, 8  # architectures of a kind, and others, for a correlation without the kind
DRAWS = 5000


@dataclass(frozen=True)
class Misjudged:
    """A kind that the proxy ranks too low (`shift` > 0) or too high.

    Attributes:
        kind: such as `that loop`.
        count: number of its architectures.
        shift: mean number of ranks that longer training moves them up.
        p: two-sided, corrected.
        others: Spearman of proxy and long loss among all others.
    """

    kind: str
    count: int
    shift: float
    p: float
    others: Estimate

    def __str__(self) -> str:
        where = "low" if self.shift > 0 else "high"
        return (
            f"the proxy puts architectures {self.kind} {abs(self.shift):.1f} places too {where} "
            f"({self.count} of them, p = {self.p:.2g}); Spearman without them: {self.others}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "kind": self.kind,
            "architectures": self.count,
            "places_too_low": self.shift,
            "p": self.p,
            "spearman_without": self.others.to_list(),
        }


def misjudged(architectures: Sequence[Architecture], proxy: Array, long: Array) -> list[Misjudged]:
    """Return the kinds with p at most LEVEL, lowest p first.

    Args:
        proxy, long: (architectures,) losses in nats/token after the proxy and after longer training.
    """
    from scipy.stats import rankdata

    moved = rankdata(proxy) - rankdata(long)
    tested = []
    for kind, inside in _kinds(architectures).items():
        count = int(inside.sum())
        if FEWEST <= count <= len(inside) - OTHERS:
            shift = float(moved[inside].mean())
            tested.append((_p(moved[inside], moved[~inside]), kind, count, shift, ~inside))
    significant, corrected = [], 0.0
    for rank, (p, kind, count, shift, others) in enumerate(sorted(tested, key=lambda item: item[:2])):
        corrected = max(corrected, min(1.0, p * (len(tested) - rank)))
        if corrected <= LEVEL:
            left = bootstrap(spearman, proxy[others], long[others])
            significant.append(Misjudged(kind, count, shift, corrected, left))
    return significant


def _kinds(architectures: Sequence[Architecture]) -> Mapping[str, NDArray[np.bool_]]:
    """Return a mask of the architectures of each kind: those with a trait or, if fewer, those without it."""
    traits = [
        ("that loop", "that do not loop", [item.loop_count > 1 for item in architectures]),
        ("with HDPL", "without HDPL", [_has_hdpl(item) for item in architectures]),
    ]
    for letter, word in MIXER_WORDS.items():
        traits.append((f"with {word}", f"without {word}", [letter in item.layout for item in architectures]))
    kinds = {}
    for having, lacking, has in traits:
        inside = np.array(has, dtype=bool)
        few = inside.sum() * 2 <= len(inside)
        kinds[having if few else lacking] = inside if few else ~inside
    return kinds


def _has_hdpl(architecture: Architecture) -> bool:
    return any(item.name == "hdpl" for layer in architecture.layers for item in layer.projections.values())


def _p(inside: Array, outside: Array) -> float:
    """Return the permutation p-value: the share of random groups as large as `inside` that moved as far."""
    from scipy.stats import permutation_test

    result = permutation_test(
        (inside, outside), lambda group, rest, axis: np.abs(group.mean(axis)),
        permutation_type="independent", alternative="greater", n_resamples=DRAWS, rng=0,
    )  # fmt: skip
    return float(result.pvalue)
