"""Figures of replayed searches: medians, quartiles, and ratios to the best of Optuna's samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from studies.benchmarks.search import COMPARED, POOL, SHARES, Replayed
from studies.study.settings import GAIN
from studies.surrogates.observations import Floats

RESAMPLES = 2000
LEVEL = 0.9  # of intervals


@dataclass(frozen=True)
class Figures:
    """Summary of a method over its seeds.

    Attributes:
        tokens: lower quartile, median and upper quartile of the tokens to each share.
        ratio: median tokens to `COMPARED`, relative to the best rival without stopping.
        interval: bootstrap interval of the ratio over the seeds of both, of LEVEL.
        lost: median over the seeds.
        ms: median overhead per trial in milliseconds; `last_ms` of the last tenth of the trials.
    """

    method: str
    seeds: int
    tokens: dict[float, tuple[float, float, float]]
    ratio: float | None
    interval: tuple[float, float] | None
    lost: float | None
    duplicates: int
    ms: float | None
    last_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; tokens are null if a share is never reached."""
        values = asdict(self)
        values["tokens"] = {
            str(share): dict(zip(("q25", "median", "q75"), map(_finite, quartile), strict=True))
            for share, quartile in self.tokens.items()
        }
        ratio = None if self.ratio is None else _finite(self.ratio)
        interval = None if self.interval is None else [_finite(bound) for bound in self.interval]
        return values | {"ratio": ratio, "interval": interval}


def figures(runs: Sequence[Replayed]) -> list[Figures]:
    """Return one row per method, in the order of the runs."""
    by_method: dict[str, list[Replayed]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    tokens = {
        method: {share: quartiles([run.to_reach(share) for run in own]) for share in SHARES}
        for method, own in by_method.items()
    }
    best = best_unstopped(tokens)
    rows = []
    for method, own in by_method.items():
        lost = [run.lost for run in own if run.lost is not None]
        overhead = [run.overhead for run in own if run.overhead]
        last = [value for run in overhead for value in run[-max(1, len(run) // 10) :]]
        rows.append(
            Figures(
                method=method,
                seeds=len(own),
                tokens=tokens[method],
                interval=None if best is None or method == best else bootstrapped(own, by_method[best]),
                ratio=None if best is None else tokens[method][COMPARED][1] / tokens[best][COMPARED][1],
                lost=float(np.median(lost)) if lost else None,
                duplicates=sum(run.duplicates for run in own),
                ms=float(np.median(np.concatenate(overhead))) if overhead else None,
                last_ms=float(np.median(last)) if last else None,
            )
        )
    return rows


def best_unstopped(tokens: dict[str, dict[float, tuple[float, float, float]]]) -> str | None:
    """Return the reference method: the best of Optuna's samplers without stopping; None if none succeeded."""
    rivals = [
        name
        for name in tokens
        if name.endswith("/none") and name.partition("/")[0].removesuffix(POOL) != GAIN
    ]
    best = min(rivals, key=lambda name: tokens[name][COMPARED][1], default=None)
    return best if best is not None and math.isfinite(tokens[best][COMPARED][1]) else None


def bootstrapped(own: Sequence[Replayed], others: Sequence[Replayed]) -> tuple[float, float]:
    """Return the interval of the ratio of the median tokens to `COMPARED`, resampling the seeds of both."""
    rng = np.random.default_rng(0)
    medians = []
    for runs in (own, others):
        tokens = np.array([run.to_reach(COMPARED) for run in runs])
        picked = np.sort(tokens[rng.integers(len(tokens), size=(RESAMPLES, len(tokens)))], axis=1)
        medians.append((picked[:, (len(tokens) - 1) // 2] + picked[:, len(tokens) // 2]) / 2)
    with np.errstate(invalid="ignore"):  # where neither gets there
        ratios = medians[0] / medians[1]
    ratios = np.where(np.isnan(ratios), np.inf, ratios)
    low = np.quantile(ratios, (1 - LEVEL) / 2, method="nearest")
    return float(low), float(np.quantile(ratios, (1 + LEVEL) / 2, method="nearest"))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile, each the midpoint of its two neighbours."""
    low, high = (np.quantile(values, [0.25, 0.5, 0.75], method=way) for way in ("lower", "higher"))
    first, middle, last = (low + high) / 2  # numpy's own midpoint of two infinities is NaN
    return float(first), float(middle), float(last)


def band(runs: Sequence[Replayed], tokens: Floats) -> Floats:
    """Return (3, n) quartiles over a method's runs of the hypervolume share at these (n,) tokens."""
    shares = [
        np.concatenate([[0.0], run.shares])[np.searchsorted(run.tokens, tokens, side="right")] for run in runs
    ]
    return np.asarray(np.quantile(shares, [0.25, 0.5, 0.75], axis=0))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
