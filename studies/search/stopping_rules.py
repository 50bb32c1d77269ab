"""Early-stopping rules. A rule scores each run at a rung; a score of 0 pauses it.

The same rule decides about a run that reaches a rung and, whenever a worker is free, about paused runs: one
whose score has become positive resumes from its checkpoint. Costs are exact, so a run is only compared with
runs that cost no more in every objective: the others can't keep it off the front.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from studies.search.gain_sampler import Outlook
from studies.surrogates.expected_improvement import expected_improvements
from studies.surrogates.learning_curves import FEWEST, Prediction, extrapolate
from studies.surrogates.observations import Floats, Observations
from surgery.config.problems import Problem, UserError, nearest


class StoppingRule(ABC):
    """An early-stopping rule. Stateless: equal observations give equal answers in every worker.

    Attributes:
        name: as `--stopping` takes it.
        share: of the runs at a rung that may continue while new ones are still started, the highest scores
            first; None: every run with a positive score.
        weighs: runs have to be worth their remaining tokens beside a new run, where the sampler says what
            that is worth; then no share applies.
    """

    name: ClassVar[str]
    share: ClassVar[float | None] = None
    weighs: ClassVar[bool] = False

    @abstractmethod
    def score(self, observations: Observations, rows: Sequence[int]) -> Floats:
        """Return the priority (len(rows),) of continuing each unfinished run; higher first, 0 = pause."""

    def chance_on_front(self, observations: Observations, rows: Sequence[int]) -> Floats:
        """Return the chance (len(rows),) that each run ends on the front; by default its score.

        It decides which paused runs keep their checkpoint when not all can, and which resume at the end of a
        study although their score is 0.
        """
        return self.score(observations, rows)

    def continues(self, observations: Observations, row: int, paused: Sequence[int]) -> bool:
        """Return whether a run at a rung continues.

        If only a share may leave the rung, its score has to be the highest there, else positive.

        Args:
            row: the run's row in the observations.
            paused: rows of the paused runs that can resume.
        """
        if self.share is None:
            return bool(self.score(observations, [row])[0] > 0)
        return (
            self.next(observations, [*paused, row], ending=False, among=int(observations.reached[row])) == row
        )

    def next(
        self, observations: Observations, rows: Sequence[int], *, ending: bool, among: int | None = None
    ) -> int | None:
        """Return the row of the paused run to resume first; None if none should resume.

        Args:
            ending: no new runs are started any more, so that no share applies.
            among: only runs at this rung, counted from 1.
        """
        if among is not None:
            rows = [row for row in rows if observations.reached[row] == among]
        open_rungs = {
            rung
            for rung in set(observations.reached[list(rows)].tolist())
            if ending or self._has_room(observations, rung)
        }
        rows = [row for row in rows if observations.reached[row] in open_rungs]
        if not rows:
            return None
        scores = self.score(observations, rows)
        if ending and not scores.any():  # no new run needs the time
            chances = self.chance_on_front(observations, rows)
            scores = np.where(chances > LAST_CHANCE, chances, 0.0)
        best = int(scores.argmax())
        return rows[best] if scores[best] > 0 else None

    def pays(
        self, outlook: Outlook, remaining: Sequence[float], observations: Observations, rows: Sequence[int]
    ) -> int | None:
        """Return the row of the run that gains most per remaining token; None if a new one gains more.

        A forecast that is less sure than what is expected of new architectures, untrained, stops nothing.

        Args:
            outlook: what the runs and the best new architecture gain.
            remaining: share of a training that is left after each number of rungs.
            rows: of unfinished runs.
        """
        likely = self.chance_on_front(observations, rows) >= SMALLEST_CHANCE
        gains = outlook.worth(rows) / np.array(remaining)[observations.reached[list(rows)]]
        gains = np.where(likely, gains, -1.0)
        vague = extrapolate(observations).sd[list(rows)] > VAGUE * outlook.unsure
        gains = np.where(vague, np.inf, gains)
        best = int(gains.argmax())
        return rows[best] if gains[best] >= max(BAR * outlook.gain, 0.0) else None

    def _has_room(self, observations: Observations, rung: int) -> bool:
        """Return whether one more run may leave the rung."""
        if self.share is None or observations.finished.sum() < START:
            return True
        there = (observations.reached >= rung) & ~observations.exempt
        beyond = (observations.reached > rung) & ~observations.exempt
        return bool(beyond.sum() < self.share * there.sum())


class Never(StoppingRule):
    """The rule that pauses nothing."""

    name = "none"

    def score(self, observations: Observations, rows: Sequence[int]) -> Floats:
        """Return 1 for every run."""
        return np.ones(len(rows))


class Median(StoppingRule):
    """The median rule of Vizier (Golovin et al. 2017, section 3.2.2), among runs that cost no more."""

    name = "median"

    def score(self, observations: Observations, rows: Sequence[int]) -> Floats:
        """Return 1 for runs no worse than their rivals' median, else 0."""
        return np.array(
            [float(observations.last[row] <= _middle(_rivals(observations, row))) for row in rows]
        )


class Pareto(StoppingRule):
    """Pauses a run that one of no higher cost beats at its rung by more than the noise.

    The noise is the spread of the results of runs with one loss at the rung.
    """

    name = "pareto"

    def score(self, observations: Observations, rows: Sequence[int]) -> Floats:
        """Return 1 for runs within the noise of their best rival, else 0."""
        margins = [_margin(observations, rung) for rung in range(observations.curves.shape[1])]
        scores = []
        for row in rows:
            best = min(_rivals(observations, row), default=math.inf)
            scores.append(float(observations.last[row] <= best + margins[observations.reached[row] - 1]))
        return np.array(scores)


class Forecasting(StoppingRule):
    """Scores a run by its expected hypervolume improvement, or 0 if it is unlikely to end on the front."""

    name = "forecast"
    # ASHA's rule (Li et al. 2020), there by loss alone; on the replay table 1/4 to 1/2 are equally good
    share = 1 / 2
    weighs = True

    def score(self, observations: Observations, rows: Sequence[int]) -> Floats:
        """Return the expected hypervolume improvements; 0 for runs unlikely to end on the front."""
        improvements = expected_improvements(observations, extrapolate(observations), rows)
        return np.where(self.chance_on_front(observations, rows) >= SMALLEST_CHANCE, improvements, 0.0)

    def chance_on_front(self, observations: Observations, rows: Sequence[int]) -> Floats:
        """Return the chance of each run to end on the front, even where it would add little hypervolume."""
        return _chances(observations, extrapolate(observations), rows)


STOPPING_RULES: dict[str, StoppingRule] = {
    item.name: item for item in (Never(), Median(), Pareto(), Forecasting())
}
SMALLEST_CHANCE = 0.05  # of ending on the front
BAR = 0.5  # share of the best new architecture's gain per token that a run has to reach
VAGUE = 1.5  # times as unsure as before training: forecasts include the noise of the seed
LAST_CHANCE = 0.01  # likewise, once no new run is started
START = FEWEST  # runs that are trained to the end before others are held back for them


def check_stopping_rule(name: str) -> None:
    """Check the name of an early-stopping rule.

    Raises:
        UserError: no rule has that name.
    """
    if name not in STOPPING_RULES:
        rule = f"must be one of {', '.join(STOPPING_RULES)}"
        raise UserError(
            "unknown stopping rule", [Problem("stopping", name, rule, nearest(name, STOPPING_RULES))]
        )


def _chances(observations: Observations, prediction: Prediction, rows: Sequence[int]) -> Floats:
    """Return the predicted chance of each row to end below every run that costs no more; 1 without any."""
    from scipy.special import ndtr

    steps = np.full(len(rows), np.inf)  # to the nearest rival, in standard deviations
    for index, row in enumerate(rows):
        rivals = observations.cheaper(row) & np.isfinite(prediction.sd)
        if rivals.any() and math.isfinite(prediction.sd[row]):
            leads = prediction.mean[rivals] - prediction.mean[row]
            steps[index] = (leads / np.hypot(prediction.sd[rivals], prediction.sd[row])).min()
    return np.asarray(ndtr(steps))


def _rivals(observations: Observations, row: int) -> Floats:
    """Return the losses, at the last rung that a run reached, of the runs that cost no more."""
    losses = observations.curves[observations.cheaper(row), observations.reached[row] - 1]
    return np.asarray(losses[~np.isnan(losses)])


def _middle(losses: Floats) -> float:
    return float(np.median(losses)) if len(losses) else math.inf


def _margin(observations: Observations, rung: int) -> float:
    """Return the standard error of the result given the loss at a rung, on the rung's own scale.

    It is taken over the finished runs, and infinite while there are fewer than FEWEST: then no run pauses.
    """
    known = observations.curves[:, [rung, -1]]
    known = known[~np.isnan(known).any(axis=1)]
    if len(known) < FEWEST or np.ptp(known[:, 0]) == 0:
        return math.inf
    slope, offset = np.polyfit(known[:, 0], known[:, 1], 1)
    residuals = known[:, 1] - slope * known[:, 0] - offset
    return float(np.sqrt((residuals**2).sum() / (len(known) - 2)) / max(abs(slope), 0.1))
