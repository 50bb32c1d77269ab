"""Calibration against laws that are known."""

from __future__ import annotations

import numpy as np
import pytest

from studies.selection.calibration import SHIFT, SLOPE, SPREAD, Calibration


def designs(seed: int, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and measurements 1.3 predicted^1.2, with lognormal noise."""
    random = np.random.default_rng(seed)
    predicted = np.exp(random.uniform(-3, 1, count))
    return predicted, 1.3 * predicted**1.2 * np.exp(noise * random.normal(size=count))


def test_a_law_without_noise_is_learned() -> None:
    calibration = Calibration(*designs(0, 400, 0.0))
    assert calibration.slope == pytest.approx(1.2, abs=1e-3)
    mean, sd = calibration.predict([0.1, 1.0])
    assert mean == pytest.approx(1.3 * np.array([0.1, 1.0]) ** 1.2, rel=1e-2)
    assert (sd < 0.05 * mean).all()


def test_noise_is_learned() -> None:
    assert Calibration(*designs(0, 400, 0.15)).sd == pytest.approx(0.15, rel=0.2)


def test_without_designs_the_prediction_is_taken_with_the_spread_assumed() -> None:
    calibration = Calibration([], [])
    assert calibration.slope == 1
    mean, sd = calibration.predict(1.0)
    variance = SPREAD**2 + SHIFT**2
    assert float(mean) == pytest.approx(np.exp(variance / 2))
    assert float(sd / mean) == pytest.approx(np.sqrt(np.expm1(variance)))
    _, wider = calibration.predict(np.e)
    assert float(wider / sd) > np.exp(SLOPE**2 / 2)


@pytest.mark.parametrize("bad", [50.0, 0.001])
def test_an_outlier_moves_little(bad: float) -> None:
    predicted, measured = designs(1, 10, 0.05)
    clean, _ = Calibration(predicted, measured).predict([0.2, 1.0])
    measured[3] = bad
    spoilt, _ = Calibration(predicted, measured).predict([0.2, 1.0])
    plain = np.polyval(np.polyfit(np.log(predicted), np.log(measured), 1), np.log([0.2, 1.0]))
    assert (np.abs(np.log(spoilt / clean)) < np.abs(plain - np.log(clean)) / 2).all()


@pytest.mark.parametrize("count", [3, 8, 20])
def test_new_designs_fall_within_the_standard_deviations(count: int) -> None:
    inside = []
    for seed in range(200):
        predicted, measured = designs(seed, count + 1, 0.2)
        mean, sd = Calibration(predicted[1:], measured[1:]).predict(predicted[0])
        inside.append(abs(measured[0] - mean) < 2 * sd)
    assert np.mean(inside) > 0.9


def test_the_order_of_predictions_is_kept() -> None:
    predicted = np.geomspace(0.1, 10, 30)
    calibration = Calibration(predicted, 1 / predicted)
    mean, _ = calibration.predict([0.5, 1.0, 2.0])
    assert calibration.slope > 0
    assert (np.diff(mean) > 0).all()


def test_what_has_no_logarithm_is_left_out() -> None:
    predicted, measured = designs(2, 5, 0.1)
    more = Calibration([*predicted, -1.0, 0.0, np.inf, 1.0], [*measured, 1.0, 1.0, 1.0, np.nan])
    assert more.sd == Calibration(predicted, measured).sd
    mean, sd = more.predict([-1.0, 0.0])
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()
