"""Where unfinished runs will end: the fall of the loss from a rung to the end, learned from finished runs.

A ridge regression for each rung, in closed form. What early stopping chose by (loss and costs) is among its
inputs, so that having only survivors to learn from does not bend it. Its error is the leave-one-out error,
which holds the noise between seeds as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from studies.surrogates.descriptors import SUMMARY
from studies.surrogates.gaussian_process import MOST, regress
from studies.surrogates.observations import Evidence, Floats

FEWEST = 3  # finished runs that a forecast needs
SMALLEST = 1e-9  # standard deviation in nats/token: no forecast is certain
# on standardised inputs, chosen by leave-one-out error; the last leaves the mean alone
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)


@dataclass(frozen=True, eq=False)
class Forecast:
    """Result of each run: known (sd 0) or expected with its standard deviation; NaN, inf: can't be told."""

    mean: Floats
    sd: Floats


@lru_cache(maxsize=1)  # the same evidence is asked about more than once while a trial is taken
def forecast(evidence: Evidence) -> Forecast:
    """(n,) results in nats/token."""
    mean = np.where(evidence.finished, evidence.curves[:, -1], np.nan)
    sd = np.where(evidence.finished, 0.0, np.inf)
    for reached in range(1, evidence.curves.shape[1]):
        inputs = _inputs(evidence, reached)
        wanted = (evidence.reached == reached) & ~evidence.finished
        known = evidence.finished & ~np.isnan(inputs).any(axis=1)
        if not wanted.any() or known.sum() < FEWEST:
            continue
        start = evidence.curves[:, reached - 1]
        fall, error = _ridge(inputs[known], (evidence.curves[:, -1] - start)[known], inputs[wanted])
        mean[wanted], sd[wanted] = start[wanted] + fall, error
    return Forecast(mean, sd)


def prospects(evidence: Evidence, told: Forecast, costs: Floats, features: Floats) -> Forecast:
    """(m,) results of architectures that were not started, from the results, known or expected, of others.

    Args:
        costs: (m, costs), of the same objectives as the evidence's.
        features: (m, f), likewise.
    """
    known = np.flatnonzero(np.isfinite(told.sd))
    if len(known) < FEWEST:
        return Forecast(np.full(len(costs), np.nan), np.full(len(costs), np.inf))
    known = known[-MOST:]
    logs = _logs(np.concatenate([evidence.costs, costs]))
    there = np.column_stack([logs[known], evidence.features[known]])
    new = np.column_stack([logs[len(evidence) :], features])
    return Forecast(*regress(there, told.mean[known], told.sd[known], new, costs.shape[1] + SUMMARY))


def _inputs(evidence: Evidence, reached: int) -> Floats:
    """Loss at the rung, its fall since the one before, logarithms of the costs, descriptors of the whole."""
    columns = [evidence.curves[:, reached - 1]]
    if reached > 1:
        columns.append(evidence.curves[:, reached - 2] - evidence.curves[:, reached - 1])
    return np.column_stack([*columns, _logs(evidence.costs), evidence.features[:, :SUMMARY]])


def _logs(costs: Floats) -> Floats:
    """Logarithms of the columns that are positive throughout."""
    positive = (costs > 0).all(axis=0)
    return np.where(positive, np.log(np.where(positive, costs, 1.0)), costs)


def _ridge(inputs: Floats, targets: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """(means, standard deviations) of new targets; the mean of the known ones is not penalised."""
    centre, spread = inputs.mean(axis=0), inputs.std(axis=0)
    spread = np.where(spread > 1e-12, spread, np.inf)  # a column without variety says nothing
    x, new = (inputs - centre) / spread, (wanted - centre) / spread
    y = targets - targets.mean()
    count = len(y)
    left, scale, right = np.linalg.svd(x, full_matrices=False)
    rotated = left.T @ y
    best: tuple[float, Floats, float] | None = None
    for penalty in PENALTIES:
        shrink = scale**2 / (scale**2 + penalty)
        hat = (left**2 * shrink).sum(axis=1) + 1 / count
        errors = (y - left @ (shrink * rotated)) / np.maximum(1 - hat, 1 / count)
        error = float(np.mean(errors**2))
        if best is None or error < best[0]:
            best = error, right.T @ (scale / (scale**2 + penalty) * rotated), penalty
    assert best is not None
    error, weights, penalty = best
    # leverage: how far a new row lies from the known ones, along what they vary in and beside it
    along = (new @ right.T) ** 2
    beside = np.maximum((new**2).sum(axis=1) - along.sum(axis=1), 0.0)
    leverage = (along / (scale**2 + penalty)).sum(axis=1) + beside / penalty + 1 / count
    return targets.mean() + new @ weights, np.sqrt(error * (1 + leverage)) + SMALLEST
