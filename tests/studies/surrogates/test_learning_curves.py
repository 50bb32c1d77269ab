"""Forecasts of made-up runs: their 90 % intervals cover nine in ten results, however few are finished."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from studies.surrogates.descriptors import SUMMARY
from studies.surrogates.learning_curves import extrapolate
from studies.surrogates.observations import Floats, Observations
from tests.studies.tables import observation_table

Z = 1.6448536  # of a normal 90 % interval
NEW = 4  # unfinished runs per study


def sizes(rng: np.random.Generator, count: int) -> tuple[Floats, Floats, Floats]:
    """Every descriptor matters a little, two of them together, and the costs too."""
    features = rng.normal(size=(count, SUMMARY))
    costs = np.exp(0.4 * rng.normal(size=(count, 2)))
    end = 4 + features @ (0.1 * rng.normal(size=SUMMARY)) - 0.2 * np.log(costs[:, 0])
    end += 0.1 * np.tanh(features[:, 0] * features[:, 1]) + 0.02 * rng.normal(size=count)
    late = 0.1 * features[:, 1] + 0.05 * rng.normal(size=count)
    rungs = [end + 0.6 + late, end + 0.25 + 0.5 * late + 0.02 * rng.normal(size=count), end]
    return features, costs, np.stack(rungs, axis=1)


def choices(rng: np.random.Generator, count: int) -> tuple[Floats, Floats, Floats]:
    """Three of the choices matter, the first one late."""
    features = rng.integers(0, 2, size=(count, SUMMARY)).astype(float)
    costs = np.exp(0.4 * rng.normal(size=(count, 2)))
    end = 4 + 0.3 * features[:, 0] - 0.1 * features[:, 1] * features[:, 2] + 0.03 * rng.normal(size=count)
    early = end + 0.8 - 0.2 * features[:, 0] + 0.05 * rng.normal(size=count)
    return features, costs, np.stack([early, end + 0.3 + 0.03 * rng.normal(size=count), end], axis=1)


def study(truth: Callable[..., tuple[Floats, ...]], finished: int, seed: int) -> tuple[Observations, Floats]:
    """A study with so many finished runs and a few at a rung, and the results of these."""
    rng = np.random.default_rng(seed)
    features, costs, curves = truth(rng, finished + NEW)
    reached = [3] * finished + rng.integers(1, 3, size=NEW).tolist()
    known = [row[:rungs].tolist() for row, rungs in zip(curves, reached, strict=True)]
    table = observation_table(range(len(known)), costs.tolist(), known, features.tolist(), 3)
    return table, curves[finished:, -1]


@pytest.mark.slow
@pytest.mark.parametrize("truth", [sizes, choices])
@pytest.mark.parametrize("finished", [3, 5, 8, 20])
def test_intervals_cover_nine_in_ten_results(truth: Callable[..., tuple[Floats, ...]], finished: int) -> None:
    inside: list[bool] = []
    for seed in range(400):
        observations, results = study(truth, finished, seed)
        prediction = extrapolate(observations)
        inside += (np.abs(prediction.mean - np.append(np.zeros(finished), results)) <= Z * prediction.sd)[
            finished:
        ].tolist()
    print(f"{truth.__name__}, {finished} finished runs: {np.mean(inside):.1%} of {len(inside)}")
    assert 0.85 <= np.mean(inside) <= 0.96
