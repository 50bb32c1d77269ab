"""A Gaussian process of few observations: what it learns, how sure it is, and whom it believes."""

from __future__ import annotations

import numpy as np

from studies.surrogates.gaussian_process import MOST, regress
from studies.surrogates.observations import Floats


def test_it_tells_what_it_has_seen_and_knows_how_far_it_is_off() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(MOST + 100, 4))
    results = inputs[:, 0] + np.maximum(inputs[:, 1], 0) + rng.normal(scale=0.05, size=len(inputs))
    means, sds = regress(inputs[:60], results[:60], np.zeros(60), inputs[60:])
    errors = results[60:] - means
    assert np.sqrt(np.mean(errors**2)) < 0.35 * results.std()
    assert 0.8 < np.mean(np.abs(errors) < 1.645 * sds) < 1


def test_what_is_only_expected_counts_less_than_what_was_measured() -> None:
    inputs = np.array([[0.0], [0.0], [1.0], [2.0], [3.0]])
    results = np.array([0.0, 1.0, 1.0, 2.0, 3.0])
    sure, _ = regress(inputs, results, np.zeros(5), np.array([[0.0]]))
    doubted, _ = regress(inputs, results, np.array([0.0, 5.0, 0, 0, 0]), np.array([[0.0]]))
    assert abs(doubted[0]) < abs(sure[0])


def test_far_from_what_was_seen_it_is_less_sure_and_without_variety_it_tells_the_mean() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(20, 2))
    _, sds = regress(inputs, inputs[:, 0] ** 2, np.zeros(20), np.array([[0.0, 0.0], [9.0, 9.0]]))
    assert sds[1] > sds[0]
    means, sds = regress(np.ones((4, 2)), np.array([1.0, 2, 3, 4]), np.zeros(4), np.ones((1, 2)))
    assert abs(means[0] - 2.5) < 0.1
    assert np.isfinite(sds).all()


def test_single_choices_count_where_they_tell_and_not_where_they_are_idle() -> None:
    """One of ten choices moves the result, which the summary does not know; or none does."""
    rng = np.random.default_rng(2)
    summary, choices = rng.normal(size=(300, 2)), rng.integers(0, 2, size=(300, 10)).astype(float)
    both, known = np.column_stack([summary, choices]), slice(0, 60)
    for result, better in (
        (summary[:, 0] + choices[:, 3], 0.85),  # times the error without them
        (summary[:, 0] + rng.normal(scale=0.3, size=300), 1.1),
    ):
        with_them, _ = regress(both[known], result[known], np.zeros(60), both[60:], summary=2)
        without, _ = regress(summary[known], result[known], np.zeros(60), summary[60:])
        assert _error(with_them, result[60:]) < better * _error(without, result[60:])


def test_values_that_do_not_apply_add_no_distance() -> None:
    inputs = np.array([[0.0, np.nan], [1.0, 2.0], [2.0, np.nan], [3.0, 4.0]])
    filled = np.where(np.isnan(inputs), 3.0, inputs)  # the mean of the others
    results = np.array([0.0, 1.0, 2.0, 3.0])
    predicted = regress(inputs, results, np.zeros(4), inputs[:2], summary=1)
    np.testing.assert_allclose(predicted, regress(filled, results, np.zeros(4), filled[:2], summary=1))


def _error(predicted: Floats, true: Floats) -> float:
    return float(np.sqrt(np.mean((predicted - true) ** 2)))
