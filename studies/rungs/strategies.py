"""Who goes on after a rung. A strategy gives every run a chance in [0, 1]; below its threshold a run stops.

The same rule decides about a run that reaches a rung and, whenever something new is known, about those that
stopped: whoever's chance has risen goes on from its checkpoint. Costs are exact, so a run is only ever
compared with runs that cost no more in every objective: the others can't keep it off the front.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from studies.rungs.evidence import Evidence, Floats
from studies.rungs.forecast import FEWEST, forecast
from surgery.problems import Problem, UserError, nearest


class Strategy(ABC):
    """Stateless: the same evidence, the same answer, in every worker."""

    name: ClassVar[str]
    summary: ClassVar[str]
    threshold: ClassVar[float] = 0.5

    @abstractmethod
    def chances(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        """Chance of a place on the front of each of the rows, none of which has finished."""


class Never(Strategy):
    name, summary = "none", "every run is trained to the end"

    def chances(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        return np.ones(len(rows))


class Median(Strategy):
    """The median rule of Vizier (Golovin et al. 2017, section 3.2.2), among runs that cost no more."""

    name, summary = "median", "stops what is worse than the median of the runs that cost no more"

    def chances(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        return np.array([float(evidence.last[row] <= _middle(_rivals(evidence, row))) for row in rows])


class Pareto(Strategy):
    """Stops what is dominated at its rung by more than the noise: how far runs of one loss end apart."""

    name, summary = "pareto", "stops what a run that costs no more beats at its rung by more than the noise"

    def chances(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        margins = [_margin(evidence, rung) for rung in range(evidence.curves.shape[1])]
        found = []
        for row in rows:
            best = min(_rivals(evidence, row), default=math.inf)
            found.append(float(evidence.last[row] <= best + margins[evidence.reached[row] - 1]))
        return np.array(found)


class Forecasting(Strategy):
    """Chance that a run ends below everything that costs no more, by the forecast of both."""

    name, summary = "forecast", "stops what, by its forecast, hardly beats the runs that cost no more"
    threshold = 0.1

    def chances(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        told = forecast(evidence)
        found = np.ones(len(rows))
        for place, row in enumerate(rows):
            if not math.isfinite(told.sd[row]):
                continue
            rivals = evidence.cheaper(row) & np.isfinite(told.sd)
            if rivals.any():
                steps = (told.mean[rivals] - told.mean[row]) / np.hypot(told.sd[rivals], told.sd[row])
                found[place] = _normal(float(steps.min()))
        return found


STRATEGIES: dict[str, Strategy] = {item.name: item for item in (Never(), Median(), Pareto(), Forecasting())}
DEFAULT_STRATEGY = "forecast"


def check_strategy(name: str) -> None:
    """Raises:
    UserError: no strategy of that name.
    """
    if name not in STRATEGIES:
        rule = f"must be one of {', '.join(STRATEGIES)}"
        raise UserError("unknown strategy", [Problem("stopping", name, rule, nearest(name, STRATEGIES))])


def _rivals(evidence: Evidence, row: int) -> Floats:
    """Losses, at the last rung that a run reached, of the runs that cost no more."""
    losses = evidence.curves[evidence.cheaper(row), evidence.reached[row] - 1]
    return np.asarray(losses[~np.isnan(losses)])


def _middle(losses: Floats) -> float:
    return float(np.median(losses)) if len(losses) else math.inf


def _margin(evidence: Evidence, rung: int) -> float:
    """Standard error of the result given the loss at a rung, over the finished runs, on the rung's own scale.

    Infinite while there are too few of them: then everything goes on.
    """
    known = evidence.curves[:, [rung, -1]]
    known = known[~np.isnan(known).any(axis=1)]
    if len(known) < FEWEST or np.ptp(known[:, 0]) == 0:
        return math.inf
    slope, offset = np.polyfit(known[:, 0], known[:, 1], 1)
    residuals = known[:, 1] - slope * known[:, 0] - offset
    return float(np.sqrt((residuals**2).sum() / (len(known) - 2)) / max(abs(slope), 0.1))


def _normal(z: float) -> float:
    """Distribution function of the standard normal."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
