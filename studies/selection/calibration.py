"""From predicted scores to measured KL divergences, by a few designs of which both are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from studies.selection.problem import Array

FLOOR = 1e-6  # nats/token: predictions are compared by their logarithm
TAILS = 4.0  # degrees of freedom of the residuals' t distribution: an outlier counts for little
# The prior, by which there is an answer before anything was measured: predictions are right to 30 % or so.
SPREAD, SPREAD_WEIGHT = 0.3, 2.0  # residual sd of the logarithm, worth so many observations
SHIFT = 1.0  # sd of the logarithm of measured / predicted, in the middle of the measured designs
SLOPE = 0.3  # sd of the slope around 1
FLATTEST = 0.1  # slope: a calibration never turns the order around


class Calibration:
    """A straight line between the logarithms of predicted and measured values, and what is left of it.

    Regression with residuals of Student's t (Lange, Little and Taylor 1989) by iterated weights, with normal
    priors that pull towards measured = predicted, so that a handful of designs is enough and none is allowed.

    Attributes:
        slope: of log measured over log predicted.
        sd: of the residuals of log measured.
    """

    def __init__(self, predicted: Sequence[float], measured: Sequence[float]) -> None:
        """Fit; designs of which one value is not above 0 or not finite are left out.

        Args:
            predicted: scores in nats/token, one per design.
            measured: KL divergences in nats/token.
        """
        both = np.array([predicted, measured], dtype=np.float64).reshape(2, -1)
        x, y = np.log(both[:, (np.isfinite(both) & (both > FLOOR)).all(axis=0)])
        self._middle = float(x.mean()) if len(x) else 0.0
        rows = np.stack([np.ones(len(x)), x - self._middle], axis=1)
        surplus = y - x  # what the line adds to log predicted: a shift, and a slope beyond 1
        prior = np.diag([SHIFT**-2.0, SLOPE**-2.0])
        line, variance, weights = np.zeros(2), SPREAD**2, np.ones(len(x))
        for _ in range(100):
            precision = prior + (rows.T * weights) @ rows / variance
            line = np.linalg.solve(precision, rows.T @ (weights * surplus) / variance)
            squares = (surplus - rows @ line) ** 2
            fitted = float(np.trace(np.linalg.solve(precision, precision - prior)))  # coefficients in use
            left = SPREAD_WEIGHT + len(x) - fitted
            variance = (SPREAD_WEIGHT * SPREAD**2 + float(weights @ squares)) / left
            weights = (TAILS + 1) / (TAILS + squares / variance)
        self._shift = float(line[0])
        self.slope = max(1 + float(line[1]), FLATTEST)
        self.sd = float(np.sqrt(variance))
        self._covariance = np.linalg.inv(precision)

    def predict(self, predicted: ArrayLike) -> tuple[Array, Array]:
        """Return means and standard deviations, in nats/token, of what designs would measure.

        Both are of a lognormal distribution: the line's, its uncertainty and the residuals'.
        """
        x = np.log(np.maximum(np.asarray(predicted, dtype=np.float64), FLOOR)) - self._middle
        rows = np.stack([np.ones_like(x), x], axis=-1)
        variance = self.sd**2 + np.einsum("...i,ij,...j->...", rows, self._covariance, rows)
        mean = np.exp(self._middle + self._shift + self.slope * x + variance / 2)
        return mean, mean * np.sqrt(np.expm1(variance))
