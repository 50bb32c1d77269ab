"""Strategies of early stopping against closed forms and brute force, on evidence of any shape."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.search.stopping_rules import LAST_CHANCE, STRATEGIES, check_strategy
from studies.surrogates.learning_curves import FEWEST, PENALTIES, forecast
from studies.surrogates.observations import Evidence, Floats
from surgery.config.problems import UserError

RUNGS = 3


@st.composite
def evidences(draw: st.DrawFn, fewest: int = 2) -> Evidence:
    """Runs at any rung; costs on a coarse grid, so that some are equal."""
    count = draw(st.integers(fewest, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    costs = rng.integers(1, draw(st.integers(2, 9)), (count, draw(st.integers(1, 3)))).astype(float)
    result = 5 - 0.1 * costs.sum(axis=1) + rng.normal(0, 0.2, count)
    curves = result[:, None] + np.array([1.0, 0.3, 0.0]) + rng.normal(0, 0.05, (count, RUNGS))
    reached = rng.integers(1, RUNGS + 1, count)
    curves = [row[:length].tolist() for row, length in zip(curves, reached, strict=True)]
    features = rng.normal(size=(count, 2))
    return Evidence.of(range(count), costs.tolist(), curves, features.tolist(), RUNGS)


def unfinished(evidence: Evidence) -> list[int]:
    return [int(row) for row in np.flatnonzero(~evidence.finished)]


@given(evidences())
def test_cheaper_is_no_more_in_every_cost(evidence: Evidence) -> None:
    for row, costs in enumerate(evidence.costs):
        wanted = [
            other != row and bool((evidence.costs[other] <= costs).all()) for other in range(len(evidence))
        ]
        assert evidence.cheaper(row).tolist() == wanted
        assert evidence.last[row] == evidence.curves[row][~np.isnan(evidence.curves[row])][-1]


@pytest.mark.parametrize("name", STRATEGIES)
@given(evidence=evidences())
def test_what_nothing_undercuts_goes_on(name: str, evidence: Evidence) -> None:
    """A run that everything else costs more than, in some objective, is on the front whatever its loss."""
    rows = unfinished(evidence)
    worth = STRATEGIES[name].worth(evidence, rows)
    assert worth.shape == (len(rows),)
    assert (worth >= 0).all()
    for row, amount in zip(rows, worth, strict=True):
        if not evidence.cheaper(row).any():
            assert amount > 0


@pytest.mark.parametrize("name", STRATEGIES)
@given(evidence=evidences(), better=st.floats(0.01, 2.0))
def test_dearer_runs_change_nothing_at_the_rung_rules(name: str, evidence: Evidence, better: float) -> None:
    """Only runs that cost no more are compared with: a dearer one may be as good as it likes."""
    if name == "forecast":
        return  # dearer runs teach its regression
    rows = unfinished(evidence)
    before = STRATEGIES[name].worth(evidence, rows)
    for row, worth in zip(rows, before, strict=True):
        curves = evidence.curves.copy()
        dearer = ~evidence.cheaper(row) & ~evidence.finished  # finished ones set the margin
        dearer[row] = False
        curves[dearer] -= better
        changed = replace(evidence, curves=curves)
        assert STRATEGIES[name].worth(changed, [row])[0] == worth


@given(evidences())
def test_median_by_hand(evidence: Evidence) -> None:
    rows = unfinished(evidence)
    for row, worth in zip(rows, STRATEGIES["median"].worth(evidence, rows), strict=True):
        rung = int(evidence.reached[row]) - 1
        others = [
            evidence.curves[other, rung]
            for other in range(len(evidence))
            if evidence.cheaper(row)[other] and not math.isnan(evidence.curves[other, rung])
        ]
        assert worth == (not others or evidence.curves[row, rung] <= np.median(others))


def test_pareto_stops_what_is_beaten_by_more_than_the_noise() -> None:
    rng = np.random.default_rng(0)
    result = rng.normal(5, 0.3, 200)
    curves: Floats = np.stack([2 * result + rng.normal(0, 0.02, 200), result], axis=1)
    margin = 0.02  # of the rung's loss that one result has
    rows = [*curves.tolist(), [2 * result.min() + 1.5 * margin], [2 * result.min() + 6 * margin]]
    costs = [[1.0]] * 202
    evidence = Evidence.of(range(202), costs, rows, [[0.0]] * 202, 2)
    assert STRATEGIES["pareto"].worth(evidence, [200, 201]).tolist() == [1, 0]


@given(evidences(fewest=8))
def test_forecast_is_the_ridge_with_the_smallest_leave_one_out_error(evidence: Evidence) -> None:
    told = forecast(evidence)
    done = evidence.finished
    assert told.mean[done].tolist() == evidence.curves[done, -1].tolist()
    assert (told.sd[done] == 0).all()
    for row in unfinished(evidence):
        if done.sum() < FEWEST:
            assert not math.isfinite(told.sd[row])
            continue
        x, wanted = inputs(evidence, int(evidence.reached[row]), row)
        y = evidence.curves[done, -1] - evidence.curves[done, evidence.reached[row] - 1]
        start = evidence.curves[row, evidence.reached[row] - 1]
        errors = {penalty: leave_one_out(x, y, penalty) for penalty in PENALTIES}
        penalty = min(errors, key=lambda item: errors[item])
        design = np.column_stack([np.ones(len(x)), x])
        inverse = np.linalg.inv(design.T @ design + np.diag([0.0, *[penalty] * x.shape[1]]))
        new = np.array([1.0, *wanted])
        assert told.mean[row] == pytest.approx(start + new @ inverse @ design.T @ y, abs=1e-6)
        sd = math.sqrt(errors[penalty] * (1 + new @ inverse @ new))
        assert told.sd[row] == pytest.approx(sd, rel=1e-5, abs=1e-6)


def inputs(evidence: Evidence, reached: int, row: int) -> tuple[Floats, Floats]:
    """Standardised inputs of the finished runs and of one row, column by column."""
    columns = [evidence.curves[:, reached - 1]]
    if reached == 2:
        columns.append(evidence.curves[:, 0] - evidence.curves[:, 1])
    columns += [np.log(column) for column in evidence.costs.T]
    columns += list(evidence.features.T)
    known, new = [], []
    for column in columns:
        middle, spread = column[evidence.finished].mean(), column[evidence.finished].std()
        if spread > 1e-12:
            known.append((column[evidence.finished] - middle) / spread)
            new.append((column[row] - middle) / spread)
    return np.stack(known, axis=1), np.array(new)


def leave_one_out(x: Floats, y: Floats, penalty: float) -> float:
    """Mean squared error over the closed form of the hat matrix, mean not penalised."""
    design = np.column_stack([np.ones(len(x)), x])
    inverse = np.linalg.inv(design.T @ design + np.diag([0.0, *[penalty] * x.shape[1]]))
    hat = design @ inverse @ design.T
    return float(np.mean(((y - hat @ y) / np.maximum(1 - np.diag(hat), 1 / len(y))) ** 2))


def test_forecasts_are_as_wrong_as_they_say() -> None:
    """Results of new runs lie within two of the standard deviations told in about 95 of 100 cases."""
    rng = np.random.default_rng(1)
    inside = total = 0
    for _ in range(40):
        features = rng.normal(size=(60, 3))
        result = 5 + 0.2 * features[:, 0] + rng.normal(0, 0.03, 60)
        first = result + 0.6 + 0.1 * features[:, 1] + rng.normal(0, 0.03, 60)
        curves = [[a, b] if row < 30 else [a] for row, (a, b) in enumerate(zip(first, result, strict=True))]
        told = forecast(Evidence.of(range(60), [[1.0]] * 60, curves, features.tolist(), 2))
        inside += int((np.abs(told.mean - result)[30:] < 2 * told.sd[30:]).sum())
        total += 30
    assert 0.90 < inside / total < 0.99


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(UserError, match="forecast"):
        check_strategy("forcast")


@pytest.mark.parametrize("name", ["median", "pareto"])
@given(evidence=evidences())
def test_without_a_share_whatever_is_worth_it_goes_on(name: str, evidence: Evidence) -> None:
    """However many others wait at the same rung, and however good they are."""
    rows = unfinished(evidence)
    strategy = STRATEGIES[name]
    for row, worth in zip(rows, strategy.worth(evidence, rows), strict=True):
        stopped = [other for other in rows if other != row]
        assert strategy.goes_on(evidence, row, stopped) == (worth > 0)


@given(evidence=evidences(fewest=8))
def test_with_a_share_only_the_worthiest_at_the_rung_goes_on(evidence: Evidence) -> None:
    rows = unfinished(evidence)
    strategy = STRATEGIES["forecast"]
    for rung in set(evidence.reached[rows].tolist()):
        there = [row for row in rows if evidence.reached[row] == rung]
        going = [row for row in there if strategy.goes_on(evidence, row, [o for o in there if o != row])]
        worth = strategy.worth(evidence, there)
        assert all(worth[there.index(row)] == worth.max() > 0 for row in going)


@pytest.mark.parametrize("name", STRATEGIES)
@given(evidence=evidences())
def test_at_the_end_whoever_has_a_chance_goes_on(name: str, evidence: Evidence) -> None:
    """First what is worth something, the worthiest first, then the others, the most hopeful first."""
    strategy, rows = STRATEGIES[name], unfinished(evidence)
    if not rows:
        return
    worth = dict(zip(rows, strategy.worth(evidence, rows).tolist(), strict=True))
    hope = dict(zip(rows, strategy.hope(evidence, rows).tolist(), strict=True))
    picked: list[int] = []
    while (
        row := strategy.next(evidence, [row for row in rows if row not in picked], ending=True)
    ) is not None:
        picked.append(row)
    first = [row for row in picked if worth[row] > 0]
    assert picked[: len(first)] == first
    assert [worth[row] for row in first] == sorted(
        (item for item in worth.values() if item > 0), reverse=True
    )
    later = [hope[row] for row in picked[len(first) :]]
    left = [hope[row] for row in rows if worth[row] <= 0]
    assert later == sorted((item for item in left if item > LAST_CHANCE), reverse=True)


@given(evidence=evidences())
def test_hope_is_the_chance_against_the_hardest_rival(evidence: Evidence) -> None:
    rows, told = unfinished(evidence), forecast(evidence)
    for row, hope in zip(rows, STRATEGIES["forecast"].hope(evidence, rows), strict=True):
        wanted = 1.0
        for rival in np.flatnonzero(evidence.cheaper(row)):
            spread = math.hypot(told.sd[rival], told.sd[row])
            if math.isfinite(spread):
                ahead = (told.mean[rival] - told.mean[row]) / spread
                wanted = min(wanted, 0.5 * math.erfc(-ahead / math.sqrt(2)))
        assert hope == pytest.approx(wanted, abs=1e-12)
