"""The point of a front that is chosen, the reason, and the points that the limits excluded."""

from __future__ import annotations

import math

import pytest

from studies.analysis.limits import read_limits
from studies.analysis.pick import Excluded, choose
from studies.analysis.standings import Standings
from studies.study.trial_record import TrialRecord
from tests.studies.tables import OBJECTIVES, record

# losses and parameters of a front; metrics are what limits look at
POINTS = {0: (3.0, 400.0), 1: (3.1, 200.0), 2: (3.6, 150.0), 3: (4.0, 100.0)}


def front(runs: int = 1, noise: float = 0.0) -> Standings:
    records: list[TrialRecord] = []
    for number, (loss, params) in POINTS.items():
        spread = [noise * (index - (runs - 1) / 2) for index in range(runs)]
        metrics = {"val_loss": loss, "params": params}
        records.append(record(number, [(loss + step, params) for step in spread], metrics=metrics))
    return Standings(records, OBJECTIVES, 0)


def test_the_knee_tells_its_distance_and_the_next() -> None:
    choice = choose(front(), [], None)
    assert choice.record.number == 1
    assert choice.runner_up is not None
    assert choice.runner_up.number == 2
    distances = {
        number: math.hypot((loss - 3.0) / 1.0, (params - 100) / 300)
        for number, (loss, params) in POINTS.items()
    }
    assert f"{distances[1]:.3f} from it; next is #2 at {distances[2]:.3f}" in choice.reason


def test_the_best_without_repeats_tells_its_lead() -> None:
    choice = choose(front(), [], "val_loss")
    assert choice.record.number == 0
    assert "by 0.1000 from #1" in choice.reason
    assert "noise" not in choice.reason
    assert choice.next_better is None


@pytest.mark.parametrize(("spread", "verdict"), [(0.001, "more than the noise"), (0.5, "within the noise")])
def test_the_lead_is_compared_with_the_noise(spread: float, verdict: str) -> None:
    assert verdict in choose(front(3, spread), [], "val_loss").reason


def test_exact_objectives_have_no_noise() -> None:
    assert "noise" not in choose(front(3, 0.5), [], "params").reason


def test_the_nearest_better_one_that_a_limit_excludes() -> None:
    limits = read_limits(["params<=180"])
    choice = choose(front(), limits, "val_loss")
    assert choice.record.number == 2
    assert choice.excluded == {"params <= 180": 2}
    better = choice.next_better  # 0 and 1 are both better; 1 breaks the limit by less
    assert better is not None
    assert (better.record.number, str(better.limit), better.value) == (1, "params <= 180", 200.0)
    assert "#1 would be preferred to it, but breaks params <= 180: params 200" in str(better)


def test_what_would_look_like_the_limit_is_told_in_full() -> None:
    (limit,) = read_limits(["params<=30M"])
    record = front().rows[1].record
    texts = [Excluded(record, "#1", limit, value).measured for value in (30_020_608.0, 30_100_000.0)]
    assert texts == ["params 30,020,608", "params 30.1M"]


def test_of_several_broken_limits_the_worst_is_told() -> None:
    limits = read_limits(["params<=190", "val_loss<=3.05", "val_loss>=3.5"])
    with pytest.raises(ValueError, match="within all limits"):
        choose(front(), limits, None)
    limits = read_limits(["params<=190", "val_loss>=3.5"])
    better = choose(front(), limits, "val_loss").next_better
    assert better is not None
    assert better.record.number == 1
    assert str(better.limit) == "val_loss >= 3.5000"  # by 11 %, params by 5 %


def test_an_excluded_one_that_would_not_win_is_not_told() -> None:
    choice = choose(front(), read_limits(["val_loss<=3.9"]), "val_loss")
    assert choice.record.number == 0
    assert choice.next_better is None
    assert choice.excluded == {"val_loss <= 3.9000": 1}


def test_limits_may_be_strict_but_not_equal() -> None:
    below, above = read_limits(["params<200", "params>200"])
    record = front().rows[1].record
    assert record.metrics["params"] == 200
    assert not below.holds(record)
    assert not above.holds(record)
    assert str(below) == "params < 200"
    with pytest.raises(ValueError, match="write <= or >=: hardly any value is met exactly"):
        read_limits(["params=200"])
