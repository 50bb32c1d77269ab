"""Who goes on after a rung. A strategy says what it is worth that a run goes on; 0: nothing.

The same rule decides about a run that reaches a rung and, whenever a worker is free, about those that
stopped: whoever has become worth it goes on from its checkpoint. Costs are exact, so a run is only ever
compared with runs that cost no more in every objective: the others can't keep it off the front.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from studies.surrogates.expected_improvement import expected_gains
from studies.surrogates.learning_curves import FEWEST, Forecast, forecast
from studies.surrogates.observations import Evidence, Floats
from surgery.config.problems import Problem, UserError, nearest


class Strategy(ABC):
    """Stateless: the same evidence, the same answer, in every worker.

    Attributes:
        share: of the runs at a rung that may go on while new ones are still started, the worthiest first;
            None: every one that is worth anything.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    share: ClassVar[float | None] = None

    @abstractmethod
    def worth(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        """Of going on, for each of the rows, none of which has finished; comparable between rows."""

    def hope(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        """Which stopped runs are kept when not all can be, and go on at the end of a study although nothing
        is expected of them; `worth` unless a strategy knows better."""
        return self.worth(evidence, rows)

    def goes_on(self, evidence: Evidence, row: int, stopped: Sequence[int]) -> bool:
        """Whether a run that is at a rung goes on; `stopped` are those that wait for their chance.

        Where only a share may leave the rung, it has to be the worthiest there, else to be worth anything.
        """
        if self.share is None:
            return bool(self.worth(evidence, [row])[0] > 0)
        return self.next(evidence, [*stopped, row], ending=False, among=int(evidence.reached[row])) == row

    def next(
        self, evidence: Evidence, rows: Sequence[int], *, ending: bool, among: int | None = None
    ) -> int | None:
        """The one of these runs, stopped at rungs, that goes on first.

        Args:
            ending: no new runs are started any more: whatever is worth it may go on.
            among: only runs at this rung, counted from 1.
        """
        if among is not None:
            rows = [row for row in rows if evidence.reached[row] == among]
        open_rungs = {
            rung
            for rung in set(evidence.reached[list(rows)].tolist())
            if ending or self._has_room(evidence, rung)
        }
        rows = [row for row in rows if evidence.reached[row] in open_rungs]
        if not rows:
            return None
        worth = self.worth(evidence, rows)
        if ending and not worth.any():  # no new run needs the time
            hope = self.hope(evidence, rows)
            worth = np.where(hope > LAST_CHANCE, hope, 0.0)
        best = int(worth.argmax())
        return rows[best] if worth[best] > 0 else None

    def _has_room(self, evidence: Evidence, rung: int) -> bool:
        """Whether one more run may leave the rung."""
        if self.share is None or evidence.finished.sum() < START:
            return True
        there = (evidence.reached >= rung) & ~evidence.exempt
        beyond = (evidence.reached > rung) & ~evidence.exempt
        return bool(beyond.sum() < self.share * there.sum())


class Never(Strategy):
    name, summary = "none", "every run is trained to the end"

    def worth(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        return np.ones(len(rows))


class Median(Strategy):
    """The median rule of Vizier (Golovin et al. 2017, section 3.2.2), among runs that cost no more."""

    name, summary = "median", "stops what is worse than the median of the runs that cost no more"

    def worth(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        return np.array([float(evidence.last[row] <= _middle(_rivals(evidence, row))) for row in rows])


class Pareto(Strategy):
    """Stops what is dominated at its rung by more than the noise: how far runs of one loss end apart."""

    name, summary = "pareto", "stops what a run that costs no more beats at its rung by more than the noise"

    def worth(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        margins = [_margin(evidence, rung) for rung in range(evidence.curves.shape[1])]
        found = []
        for row in rows:
            best = min(_rivals(evidence, row), default=math.inf)
            found.append(float(evidence.last[row] <= best + margins[evidence.reached[row] - 1]))
        return np.array(found)


class Forecasting(Strategy):
    """What finishing a run is expected to add to the front, where its chance of a place is not too small."""

    name, summary = "forecast", "goes on with what is expected to add most to the front, by forecast losses"
    share = 1 / 2  # ASHA's rule (Li et al. 2020), by loss alone there; on the table 1/4 to 1/2 are alike

    def worth(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        gains = expected_gains(evidence, forecast(evidence), rows)
        return np.where(self.hope(evidence, rows) >= SMALLEST_CHANCE, gains, 0.0)

    def hope(self, evidence: Evidence, rows: Sequence[int]) -> Floats:
        """The chance of a place on the front: what would add little to it now belongs there all the same."""
        return _chances(evidence, forecast(evidence), rows)


STRATEGIES: dict[str, Strategy] = {item.name: item for item in (Never(), Median(), Pareto(), Forecasting())}
SMALLEST_CHANCE = 0.05  # of a place on the front
LAST_CHANCE = 0.01  # likewise, once no new run is started
START = FEWEST  # runs that are trained to the end before others are held back for them


def check_strategy(name: str) -> None:
    """Raises:
    UserError: no strategy of that name.
    """
    if name not in STRATEGIES:
        rule = f"must be one of {', '.join(STRATEGIES)}"
        raise UserError("unknown strategy", [Problem("stopping", name, rule, nearest(name, STRATEGIES))])


def _chances(evidence: Evidence, told: Forecast, rows: Sequence[int]) -> Floats:
    """Of each row to end below every run that costs no more, by forecast; 1 where there is none."""
    found = np.ones(len(rows))
    for place, row in enumerate(rows):
        rivals = evidence.cheaper(row) & np.isfinite(told.sd)
        if rivals.any() and math.isfinite(told.sd[row]):
            steps = (told.mean[rivals] - told.mean[row]) / np.hypot(told.sd[rivals], told.sd[row])
            found[place] = _normal(float(steps.min()))
    return found


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
