"""Learning-curve extrapolation: the fall of the loss from a rung to the end, learned from finished runs.

One ridge regression per rung, in closed form. The quantities that early stopping selects by (loss and costs)
are among its inputs, so that learning from survivors alone does not bias it. Its error is the leave-one-out
error, which includes the noise between seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from studies.surrogates.descriptors import SUMMARY
from studies.surrogates.gaussian_process import MOST, regress
from studies.surrogates.observations import Floats, Observations

FEWEST = 3  # finished runs that an extrapolation needs
SMALLEST = 1e-9  # standard deviation in nats/token: no prediction is certain
# on standardised inputs, chosen by leave-one-out error; the last leaves the mean alone
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Final losses of runs in nats/token, measured or predicted.

    Attributes:
        mean: (n,) NaN where there is no prediction.
        sd: (n,) standard deviations: 0 if measured, infinite where there is no prediction.
    """

    mean: Floats
    sd: Floats


@lru_cache(maxsize=1)  # taking a trial uses the same observations more than once
def extrapolate(observations: Observations) -> Prediction:
    """Return the final loss of each run (n,): measured if finished, else extrapolated from its last rung."""
    mean = np.where(observations.finished, observations.curves[:, -1], np.nan)
    sd = np.where(observations.finished, 0.0, np.inf)
    for reached in range(1, observations.curves.shape[1]):
        inputs = _inputs(observations, reached)
        unfinished = (observations.reached == reached) & ~observations.finished
        known = observations.finished & ~np.isnan(inputs).any(axis=1)
        if not unfinished.any() or known.sum() < FEWEST:
            continue
        start = observations.curves[:, reached - 1]
        fall, error = _ridge(inputs[known], (observations.curves[:, -1] - start)[known], inputs[unfinished])
        mean[unfinished], sd[unfinished] = start[unfinished] + fall, error
    return Prediction(mean, sd)


def predict_untrained(
    observations: Observations, prediction: Prediction, costs: Floats, features: Floats
) -> Prediction:
    """Predict the final loss (m,) of untrained architectures, from measured and extrapolated losses (n,).

    Args:
        observations: (n) runs.
        prediction: (n) their final losses, as `extrapolate` returns them.
        costs: (m, costs) of the untrained architectures, for the same objectives as the observations'.
        features: (m, f) descriptors of the untrained architectures.
    """
    known = np.flatnonzero(np.isfinite(prediction.sd))
    if len(known) < FEWEST:
        return Prediction(np.full(len(costs), np.nan), np.full(len(costs), np.inf))
    known = known[-MOST:]
    logs = _logs(np.concatenate([observations.costs, costs]))
    there = np.column_stack([logs[known], observations.features[known]])
    new = np.column_stack([logs[len(observations) :], features])
    return Prediction(
        *regress(there, prediction.mean[known], prediction.sd[known], new, costs.shape[1] + SUMMARY)
    )


def _inputs(observations: Observations, reached: int) -> Floats:
    """Return (n, columns): loss at the rung, its fall since the last rung, log costs, main descriptors."""
    columns = [observations.curves[:, reached - 1]]
    if reached > 1:
        columns.append(observations.curves[:, reached - 2] - observations.curves[:, reached - 1])
    return np.column_stack([*columns, _logs(observations.costs), observations.features[:, :SUMMARY]])


def _logs(costs: Floats) -> Floats:
    """Replace each column that is positive throughout by its logarithm."""
    positive = (costs > 0).all(axis=0)
    return np.where(positive, np.log(np.where(positive, costs, 1.0)), costs)


def _ridge(inputs: Floats, targets: Floats, queries: Floats) -> tuple[Floats, Floats]:
    """Return (means, standard deviations) at the query points; the mean of the targets is not penalised."""
    centre, spread = inputs.mean(axis=0), inputs.std(axis=0)
    spread = np.where(spread > 1e-12, spread, np.inf)  # a constant column is ignored
    x, new = (inputs - centre) / spread, (queries - centre) / spread
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
    # leverage: how far a new row lies from the known ones, along the directions in which they vary and across
    along = (new @ right.T) ** 2
    across = np.maximum((new**2).sum(axis=1) - along.sum(axis=1), 0.0)
    leverage = (along / (scale**2 + penalty)).sum(axis=1) + across / penalty + 1 / count
    return targets.mean() + new @ weights, np.sqrt(error * (1 + leverage)) + SMALLEST
