"""Early-stopping rules against closed forms and brute force, on observations of any shape."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.search.stopping_rules import (
    BAR,
    LAST_CHANCE,
    SMALLEST_CHANCE,
    STOPPING_RULES,
    check_stopping_rule,
)
from studies.stats.seed_noise import t_factor
from studies.surrogates.learning_curves import FEWEST, PENALTIES, extrapolate
from studies.surrogates.observations import Floats, Observations
from surgery.config.problems import UserError
from tests.studies.tables import observation_table

RUNGS = 3


@st.composite
def observation_tables(draw: st.DrawFn, fewest: int = 2) -> Observations:
    """Runs at any rung; costs on a coarse grid, so that some are equal."""
    count = draw(st.integers(fewest, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    costs = rng.integers(1, draw(st.integers(2, 9)), (count, draw(st.integers(1, 3)))).astype(float)
    result = 5 - 0.1 * costs.sum(axis=1) + rng.normal(0, 0.2, count)
    curves = result[:, None] + np.array([1.0, 0.3, 0.0]) + rng.normal(0, 0.05, (count, RUNGS))
    reached = rng.integers(1, RUNGS + 1, count)
    curves = [row[:length].tolist() for row, length in zip(curves, reached, strict=True)]
    features = rng.normal(size=(count, 2))
    return observation_table(range(count), costs.tolist(), curves, features.tolist(), RUNGS)


def unfinished(observations: Observations) -> list[int]:
    return [int(row) for row in np.flatnonzero(~observations.finished)]


@given(observation_tables())
def test_cheaper_is_no_more_in_every_cost(observations: Observations) -> None:
    for row, costs in enumerate(observations.costs):
        wanted = [
            other != row and bool((observations.costs[other] <= costs).all())
            for other in range(len(observations))
        ]
        assert observations.cheaper(row).tolist() == wanted
        assert observations.last[row] == observations.curves[row][~np.isnan(observations.curves[row])][-1]


@pytest.mark.parametrize("name", STOPPING_RULES)
@given(observations=observation_tables())
def test_what_nothing_undercuts_continues(name: str, observations: Observations) -> None:
    """A run that everything else costs more than, in some objective, is on the front whatever its loss."""
    rows = unfinished(observations)
    scores = STOPPING_RULES[name].score(observations, rows)
    assert scores.shape == (len(rows),)
    assert (scores >= 0).all()
    for row, amount in zip(rows, scores, strict=True):
        if not observations.cheaper(row).any():
            assert amount > 0


@pytest.mark.parametrize("name", STOPPING_RULES)
@given(observations=observation_tables(), better=st.floats(0.01, 2.0))
def test_dearer_runs_change_nothing_at_the_rung_rules(
    name: str, observations: Observations, better: float
) -> None:
    """Only runs that cost no more are compared with: a dearer one may be as good as it likes."""
    if name == "forecast":
        return  # dearer runs teach its regression
    rows = unfinished(observations)
    before = STOPPING_RULES[name].score(observations, rows)
    for row, score in zip(rows, before, strict=True):
        curves = observations.curves.copy()
        dearer = ~observations.cheaper(row) & ~observations.finished  # finished ones set the margin
        dearer[row] = False
        curves[dearer] -= better
        changed = replace(observations, curves=curves)
        assert STOPPING_RULES[name].score(changed, [row])[0] == score


@given(observation_tables())
def test_median_by_hand(observations: Observations) -> None:
    rows = unfinished(observations)
    for row, score in zip(rows, STOPPING_RULES["median"].score(observations, rows), strict=True):
        rung = int(observations.reached[row]) - 1
        others = [
            observations.curves[other, rung]
            for other in range(len(observations))
            if observations.cheaper(row)[other] and not math.isnan(observations.curves[other, rung])
        ]
        assert score == (not others or observations.curves[row, rung] <= np.median(others))


def test_pareto_stops_what_is_beaten_by_more_than_the_noise() -> None:
    rng = np.random.default_rng(0)
    result = rng.normal(5, 0.3, 200)
    curves: Floats = np.stack([2 * result + rng.normal(0, 0.02, 200), result], axis=1)
    margin = 0.02  # of the rung's loss that one result has
    rows = [*curves.tolist(), [2 * result.min() + 1.5 * margin], [2 * result.min() + 6 * margin]]
    costs = [[1.0]] * 202
    observations = observation_table(range(202), costs, rows, [[0.0]] * 202, 2)
    assert STOPPING_RULES["pareto"].score(observations, [200, 201]).tolist() == [1, 0]


@given(observation_tables(fewest=8))
def test_forecast_is_the_average_of_bayesian_ridges(observations: Observations) -> None:
    """With dense covariance matrices: y is multivariate t with (I + X X' / penalty) around its mean."""
    prediction = extrapolate(observations)
    done = observations.finished
    assert prediction.mean[done].tolist() == observations.curves[done, -1].tolist()
    assert (prediction.sd[done] == 0).all()
    for row in unfinished(observations):
        if done.sum() < FEWEST:
            assert not math.isfinite(prediction.sd[row])
            continue
        x, wanted = inputs(observations, int(observations.reached[row]), row)
        y = observations.curves[done, -1] - observations.curves[done, observations.reached[row] - 1]
        start = observations.curves[row, observations.reached[row] - 1]
        means, variances, likely = np.array([dense(x, y, wanted, penalty) for penalty in PENALTIES]).T
        weights = np.exp(likely - likely.max()) / np.exp(likely - likely.max()).sum()
        mean = weights @ means
        assert prediction.mean[row] == pytest.approx(start + mean, abs=1e-6)
        sd = math.sqrt(weights @ (variances + (means - mean) ** 2)) * t_factor(0.9, len(y) - 1) / 1.6448536
        assert prediction.sd[row] == pytest.approx(sd, rel=1e-4, abs=1e-6)


def dense(x: Floats, y: Floats, wanted: Floats, penalty: float) -> tuple[float, float, float]:
    """Mean and variance of the prediction at `wanted`, and the logarithm of the likelihood of `y`."""
    count = len(y)
    covariance = np.eye(count) + x @ x.T / penalty
    inverse, ones = np.linalg.inv(covariance), np.ones(count)
    centre = ones @ inverse @ y / (ones @ inverse @ ones)  # generalised least squares: the flat prior
    apart = y - centre
    error = apart @ inverse @ apart / (count - 1)
    towards = x @ wanted / penalty
    missed = 1 - ones @ inverse @ towards
    mean = centre + towards @ inverse @ apart
    spread = 1 + wanted @ wanted / penalty - towards @ inverse @ towards + missed**2 / (ones @ inverse @ ones)
    _, determinant = np.linalg.slogdet(covariance)
    likely = -0.5 * (determinant + math.log(ones @ inverse @ ones) + (count - 1) * math.log(error))
    return float(mean), float(error * spread), float(likely)


def inputs(observations: Observations, reached: int, row: int) -> tuple[Floats, Floats]:
    """Standardised inputs of the finished runs and of one row, column by column."""
    columns = [observations.curves[:, reached - 1]]
    if reached == 2:
        columns.append(observations.curves[:, 0] - observations.curves[:, 1])
    columns += [np.log(column) for column in observations.costs.T]
    columns += list(observations.features.T)
    known, new = [], []
    for column in columns:
        middle, spread = column[observations.finished].mean(), column[observations.finished].std()
        if spread > 1e-12:
            known.append((column[observations.finished] - middle) / spread)
            new.append((column[row] - middle) / spread)
    return np.stack(known, axis=1), np.array(new)


def test_forecasts_are_as_wrong_as_they_say() -> None:
    """Results of new runs lie within two of predicted standard deviations in about 95 of 100 cases."""
    rng = np.random.default_rng(1)
    inside = total = 0
    for _ in range(40):
        features = rng.normal(size=(60, 3))
        result = 5 + 0.2 * features[:, 0] + rng.normal(0, 0.03, 60)
        first = result + 0.6 + 0.1 * features[:, 1] + rng.normal(0, 0.03, 60)
        curves = [[a, b] if row < 30 else [a] for row, (a, b) in enumerate(zip(first, result, strict=True))]
        prediction = extrapolate(observation_table(range(60), [[1.0]] * 60, curves, features.tolist(), 2))
        inside += int((np.abs(prediction.mean - result)[30:] < 2 * prediction.sd[30:]).sum())
        total += 30
    assert 0.90 < inside / total < 0.99


@given(observations=observation_tables(fewest=8), gain=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_run_has_to_gain_per_token_beside_a_new_one(
    observations: Observations, gain: float, seed: int
) -> None:
    """The best of those with a chance goes on, if it gains enough of what a new one does."""
    rows, rule = unfinished(observations), STOPPING_RULES["forecast"]
    if not rows:
        return
    amounts = dict(zip(rows, np.random.default_rng(seed).uniform(0, 0.5, len(rows)), strict=True))
    remaining = [1.0, 0.8, 0.5, 0.0]

    class Known:
        def __init__(self) -> None:
            self.gain, self.unsure = gain, math.inf

        def worth(self, asked: list[int]) -> Floats:
            return np.array([amounts[row] for row in asked])

    row = rule.pays(Known(), remaining, observations, rows)  # type: ignore[arg-type]
    chances = rule.chance_on_front(observations, rows)
    per_token = {
        row: amounts[row] / remaining[observations.reached[row]]
        for row, chance in zip(rows, chances, strict=True)
        if chance >= SMALLEST_CHANCE
    }
    best = max(per_token, key=lambda row: per_token[row], default=None)
    assert row == (best if best is not None and per_token[best] >= BAR * gain else None)
    known = Known()
    known.unsure = 0.0  # of new architectures more is known than of these runs
    assert rule.pays(known, remaining, observations, rows) == rows[0]  # type: ignore[arg-type]


def test_an_unknown_stopping_rule_is_refused() -> None:
    with pytest.raises(UserError, match="forecast"):
        check_stopping_rule("forcast")


@pytest.mark.parametrize("name", ["median", "pareto"])
@given(observations=observation_tables())
def test_without_a_share_every_run_with_a_score_continues(name: str, observations: Observations) -> None:
    """However many others wait at the same rung, and however good they are."""
    rows = unfinished(observations)
    rule = STOPPING_RULES[name]
    for row, score in zip(rows, rule.score(observations, rows), strict=True):
        paused = [other for other in rows if other != row]
        assert rule.continues(observations, row, paused) == (score > 0)


@given(observations=observation_tables(fewest=8))
def test_with_a_share_only_the_best_score_at_the_rung_continues(observations: Observations) -> None:
    rows = unfinished(observations)
    rule = STOPPING_RULES["forecast"]
    for rung in set(observations.reached[rows].tolist()):
        there = [row for row in rows if observations.reached[row] == rung]
        leaving = [row for row in there if rule.continues(observations, row, [r for r in there if r != row])]
        scores = rule.score(observations, there)
        assert all(scores[there.index(row)] == scores.max() > 0 for row in leaving)


@pytest.mark.parametrize("name", STOPPING_RULES)
@given(observations=observation_tables())
def test_at_the_end_every_run_with_a_chance_continues(name: str, observations: Observations) -> None:
    """First runs with a score, the highest first, then the others, the best chance first."""
    rule, rows = STOPPING_RULES[name], unfinished(observations)
    if not rows:
        return
    scores = dict(zip(rows, rule.score(observations, rows).tolist(), strict=True))
    chances = dict(zip(rows, rule.chance_on_front(observations, rows).tolist(), strict=True))
    picked: list[int] = []
    while (
        row := rule.next(observations, [row for row in rows if row not in picked], ending=True)
    ) is not None:
        picked.append(row)
    first = [row for row in picked if scores[row] > 0]
    assert picked[: len(first)] == first
    assert [scores[row] for row in first] == sorted(
        (item for item in scores.values() if item > 0), reverse=True
    )
    later = [chances[row] for row in picked[len(first) :]]
    left = [chances[row] for row in rows if scores[row] <= 0]
    assert later == sorted((item for item in left if item > LAST_CHANCE), reverse=True)


@given(observations=observation_tables())
def test_chance_on_front_is_the_chance_against_the_hardest_rival(observations: Observations) -> None:
    rows, prediction = unfinished(observations), extrapolate(observations)
    for row, chance in zip(rows, STOPPING_RULES["forecast"].chance_on_front(observations, rows), strict=True):
        wanted = 1.0
        for rival in np.flatnonzero(observations.cheaper(row)):
            spread = math.hypot(prediction.sd[rival], prediction.sd[row])
            if math.isfinite(spread):
                ahead = (prediction.mean[rival] - prediction.mean[row]) / spread
                wanted = min(wanted, 0.5 * math.erfc(-ahead / math.sqrt(2)))
        assert chance == pytest.approx(wanted, abs=1e-12)
