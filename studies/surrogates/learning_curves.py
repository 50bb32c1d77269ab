"""Learning-curve extrapolation: the fall of the loss from a rung to the end, learned from finished runs.

One Bayesian ridge regression per rung, in closed form. The quantities that early stopping selects by (loss
and costs) are among its inputs, so that learning from survivors alone does not bias it. Its error includes
the noise between seeds. With few finished runs that is hardly known: a prediction is Student's t, averaged
over the penalties, and its standard deviation is widened until a normal distribution with it has the same
90 % interval. (The leave-one-out error of the best penalty is too small: with it such intervals covered 45 %
of the results after 3 finished runs, and 71 % after 5.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from studies.stats.seed_noise import widened
from studies.surrogates.descriptors import SUMMARY
from studies.surrogates.gaussian_process import MOST, regress
from studies.surrogates.observations import Floats, Observations

FEWEST = 3  # finished runs that an extrapolation needs
SMALLEST = 1e-9  # standard deviation in nats/token: no prediction is certain
# on standardised inputs, weighted by their likelihood; the last leaves the mean alone
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
        fall, error = ridge(inputs[known], (observations.curves[:, -1] - start)[known], inputs[unfinished])
        mean[unfinished], sd[unfinished] = start[unfinished] + fall, error
    return Prediction(mean, sd)


def predict_expected(
    observations: Observations, prediction: Prediction, costs: Floats, features: Floats
) -> Prediction:
    """Predict the expected final loss (m,) of architectures, from measured and extrapolated losses (n,).

    The seed's noise is left out. For a trained architecture this is its result freed of noise, as far as its
    descriptors allow.

    Args:
        observations: (n) runs.
        prediction: (n) their final losses, as `extrapolate` returns them.
        costs: (m, costs) of the architectures, for the same objectives as the observations'.
        features: (m, f) descriptors of the architectures.
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


def ridge(inputs: Floats, targets: Floats, queries: Floats) -> tuple[Floats, Floats]:
    """Return (means, standard deviations), each (m,), of new targets at the query points.

    The conjugate model: weights are normal with variance s^2 / penalty, the mean has a flat prior and s^2 is
    unknown, so that the prediction of one penalty is Student's t with n - 1 degrees of freedom, and its
    likelihood is known. Penalties are weighted by that (Hoeting et al. 1999, Bayesian model averaging).

    Args:
        inputs: (n, columns) of the known targets.
        targets: (n,) at least 2.
        queries: (m, columns).
    """
    centre, spread = inputs.mean(axis=0), inputs.std(axis=0)
    spread = np.where(spread > 1e-12, spread, np.inf)  # a constant column is ignored
    x, new = (inputs - centre) / spread, (queries - centre) / spread
    y = targets - targets.mean()
    count = len(y)
    left, scale, right = np.linalg.svd(x, full_matrices=False)
    rotated, turned = left.T @ y, new @ right.T
    squares = scale**2 / (scale**2 + np.array(PENALTIES)[:, None])  # (penalties, directions): shares kept
    errors = np.maximum((y @ y - squares @ rotated**2) / (count - 1), SMALLEST**2)  # s^2 under each penalty
    likely = -0.5 * (
        np.log1p(scale**2 / np.array(PENALTIES)[:, None]).sum(axis=1) + (count - 1) * np.log(errors)
    )
    weights = np.exp(likely - likely.max())
    weights /= weights.sum()
    means, variances = [], []
    across = np.maximum(
        (new**2).sum(axis=1) - (turned**2).sum(axis=1), 0.0
    )  # directions that no run varies in
    for penalty, error in zip(PENALTIES, errors, strict=True):
        means.append(turned @ (scale / (scale**2 + penalty) * rotated))
        leverage = (turned**2 / (scale**2 + penalty)).sum(axis=1) + across / penalty + 1 / count
        variances.append(error * (1 + leverage))
    mean = weights @ np.array(means)
    variance = weights @ (np.array(variances) + (np.array(means) - mean) ** 2)
    return targets.mean() + mean, widened(np.sqrt(variance), count - 1) + SMALLEST
