"""A Gaussian process of few observations: results of architectures from their descriptors.

A Matérn kernel plus a linear one: sizes act nearly linearly, choices together. Each observation has its own
variance, so that extrapolated results count as uncertain. The kernel is the one of a small grid under
which the observations are most likely: with ten of them, a finer choice would be noise. Single choices are
many columns, most without effect: their weight in the distance is the one that makes the observations most
likely.

Why not GPyTorch: it loads torch, which a search does without. Why not scikit-learn: one more requirement, for
a Cholesky factorisation per kernel of the grid.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from studies.surrogates.observations import Floats

MOST = 128  # observations, the newest: time grows with their cube, and early random ones are least useful
MOST_TRIED = 48  # of them, in choosing the kernel
LENGTHS = (0.5, 1.0, 2.0, 4.0)  # in standard deviations of the descriptors
CHOICES = (0.0, 0.3, 1.0)  # weights of the distance in single choices
LINEAR = (0.0, 1.0)  # variances, in shares of the Matérn kernel's
NOISE = (0.01, 0.05, 0.2)  # likewise: seeds, and effects that no descriptor captures
SCALES = (0.3, 1.0, 3.0)  # of the whole kernel, in variances of the observations
CONSTANT = 1.0
CORNER = 1e100


def regress(
    inputs: Floats, targets: Floats, sds: Floats, queries: Floats, summary: int | None = None
) -> tuple[Floats, Floats]:
    """Return (means, standard deviations), each (m,), of the expected result at each query point.

    What one more run would add to the variance is left out: it is noise of the seed, which no choice can use.

    Args:
        inputs: (n, columns) descriptors of the observations; NaN where a column does not apply.
        targets: (n,) results of the observations.
        sds: (n,) standard deviations of the targets, 0 if measured.
        queries: (m, columns) descriptors of the query points.
        summary: number of main descriptors, the first columns; the others are single choices. None: all.
    """
    inputs, targets, sds = inputs[-MOST:], targets[-MOST:], sds[-MOST:]
    x, new = _standardised(inputs[:, :summary], queries[:, :summary])
    width = max(x.shape[1], 1)
    there, across = _squares(x, x), _squares(new, x)
    chosen, choosing = np.zeros_like(there), np.zeros_like(across)
    if summary is not None:
        single, new_single = _standardised(inputs[:, summary:], queries[:, summary:])
        chosen, choosing = _squares(single, single), _squares(new_single, single)
    flat, flat_across = x @ x.T / width, new @ x.T / width
    centre, spread = targets.mean(), max(float(targets.std()), 1e-9)
    y, own = (targets - centre) / spread, np.square(sds / spread)
    some = slice(-MOST_TRIED, None)
    weight, length, linear, noise, scale = _likeliest(
        there[some, some], chosen[some, some], flat[some, some], y[some], own[some]
    )
    kernel = scale * (_matern(there + weight * chosen, length) + linear * flat + CONSTANT)
    kernel[range(len(y)), range(len(y))] += scale * noise + own
    covariance = scale * (_matern(across + weight * choosing, length) + linear * flat_across + CONSTANT)
    weights = np.linalg.solve(kernel, np.column_stack([y, covariance.T]))
    alone = scale * (1 + linear * np.square(new).sum(axis=1) / width + CONSTANT)
    variances = np.maximum(alone - (covariance * weights[:, 1:].T).sum(axis=1), 1e-9)
    return centre + covariance @ weights[:, 0] * spread, np.sqrt(variances) * spread


def _likeliest(
    there: Floats, chosen: Floats, flat: Floats, y: Floats, own: Floats
) -> tuple[float, float, float, float, float]:
    """Return (weight of choices, length, linear, noise, scale) of the kernel under which `y` is most likely.

    With K = L L', log det K and y' K^-1 y = |L^-1 y|^2 are both in the Cholesky factor of K bordered by y:
    L^-1 y is its last row. The corner only has to be large enough for a factor to exist.
    """
    count = len(y)
    pairs = list(product(NOISE, SCALES))
    noises, scales = np.array(pairs).T
    tables = np.empty((len(pairs), count + 1, count + 1))
    tables[:, count, :count], tables[:, count, count] = y, CORNER
    best = (-np.inf, CHOICES[0], LENGTHS[0], LINEAR[0], *pairs[0])
    for weight in CHOICES if chosen.any() else CHOICES[:1]:
        squares = there + weight * chosen
        for length, linear in product(LENGTHS, LINEAR):
            kernel = _matern(squares, length) + linear * flat + CONSTANT
            tables[:, :count, :count] = scales[:, None, None] * kernel
            tables[:, range(count), range(count)] += (scales * noises)[:, None] + own
            factors = np.linalg.cholesky(tables)  # which reads the lower triangle
            roots = np.diagonal(factors, axis1=1, axis2=2)[:, :count]
            likely = -0.5 * np.square(factors[:, count, :count]).sum(axis=1) - np.log(roots).sum(axis=1)
            pair = int(likely.argmax())
            if likely[pair] > best[0]:
                best = (float(likely[pair]), weight, length, linear, *pairs[pair])
    return best[1:]


def _standardised(inputs: Floats, queries: Floats) -> tuple[Floats, Floats]:
    """Return inputs and query points, standardised over both together; constant columns are left out.

    A value that does not apply is replaced by the mean, which adds nothing to any distance.
    """
    both = np.concatenate([inputs, queries])
    known = ~np.isnan(both)
    count = np.maximum(known.sum(axis=0), 1)
    apart = np.where(known, both - np.where(known, both, 0).sum(axis=0) / count, 0)
    spread = np.sqrt(np.square(apart).sum(axis=0) / count)
    varied = spread > 1e-9
    both = apart[:, varied] / spread[varied]
    return both[: len(inputs)], both[len(inputs) :]


def _squares(left: Floats, right: Floats) -> Floats:
    """Return the mean square differences, (left, right)."""
    width = max(left.shape[1], 1)
    squares = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1) - 2 * left @ right.T
    return np.asarray(np.maximum(squares, 0.0) / width)


def _matern(squares: Floats, length: float) -> Floats:
    """Return the Matérn kernel of smoothness 3/2, given squared distances."""
    scaled = np.sqrt(3 * squares) / length
    return np.asarray((1 + scaled) * np.exp(-scaled))
