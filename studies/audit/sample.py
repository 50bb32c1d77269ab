"""Selection of an audit's architectures: stratified by proxy loss and parameters, including the front."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from studies.study.trial_record import DONE, TrialRecord

LOSS_BINS, PARAMS_BINS = 4, 2  # quantile bins of equal size


@dataclass(frozen=True)
class Member:
    """An audited trial. `stratum` is its 0-based bin of proxy loss and of parameters, lowest first."""

    number: int
    hash: str
    stratum: tuple[int, int]
    on_front: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "number": self.number,
            "hash": self.hash,
            "stratum": list(self.stratum),
            "on_front": self.on_front,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Member:
        """Return a member from its JSON values."""
        loss, size = data["stratum"]
        return cls(data["number"], data["hash"], (loss, size), data["on_front"])


def auditable(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that finished the proxy, baselines included."""
    return [
        record
        for record in records
        if record.state == DONE and math.isfinite(record.metrics.get("val_loss", math.nan))
    ]


def choose_members(
    records: Sequence[TrialRecord],
    on_front: Collection[int],
    count: int,
    seed: int,
    kept: Sequence[Member] = (),
    loss: str = "val_loss",
) -> list[Member]:
    """Choose `kept` and others up to `count`: the front, at most half of all, then the emptiest strata first.

    A front that is larger than half of `count` is thinned evenly along its losses. The other half keeps the
    range of losses wide: among nearly equal architectures no correlation would be visible.

    Args:
        loss: the metric by which architectures are ranked.
    """
    left = {record.number: record for record in auditable(records)}
    strata = _strata(list(left.values()), loss)
    rng = np.random.default_rng(seed)
    chosen = list(kept[:count])
    for member in chosen:
        left.pop(member.number, None)

    def take(record: TrialRecord) -> None:
        del left[record.number]
        stratum = strata[record.number]
        chosen.append(Member(record.number, record.hash, stratum, record.number in on_front))

    front = sorted(
        (left[number] for number in on_front if number in left), key=lambda item: item.metrics[loss]
    )
    room = min(
        len(front), max(0, count // 2 - sum(member.on_front for member in chosen)), count - len(chosen)
    )
    for index in np.unique(np.linspace(0, len(front) - 1, room).round().astype(int)) if room else ():
        take(front[index])
    cells = list(product(range(LOSS_BINS), range(PARAMS_BINS)))
    order = [cells[index] for index in rng.permutation(len(cells))]
    while len(chosen) < count and left:
        held = {cell: sum(member.stratum == cell for member in chosen) for cell in cells}
        cell = min(
            (cell for cell in order if any(strata[number] == cell for number in left)),
            key=lambda cell: held[cell],
        )
        inside = sorted(number for number in left if strata[number] == cell)
        take(left[inside[rng.integers(len(inside))]])
    return chosen


def _strata(records: list[TrialRecord], loss: str) -> dict[int, tuple[int, int]]:
    height = _bins([record.metrics[loss] for record in records], LOSS_BINS)
    size = _bins([record.metrics["params"] for record in records], PARAMS_BINS)
    return {record.number: (height[index], size[index]) for index, record in enumerate(records)}


def _bins(values: list[float], count: int) -> list[int]:
    """Return the quantile bin of each value, by its rank."""
    from scipy.stats import rankdata

    ranks = rankdata(values, method="ordinal") - 1
    return [int(rank * count // len(values)) for rank in ranks]
