"""Standings on a front: intervals, ties, architectures that may be on it."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from search_spaces.objectives import Objective
from studies.analysis.marks import Marks
from studies.analysis.standings import Standings
from studies.reporting.csv_table import write_csv
from studies.stats.seed_noise import t_factor
from studies.study.replicates import mean_over_runs
from surgery.architecture.metrics import METRICS
from tests.studies.refined import refined, true_front
from tests.studies.tables import OBJECTIVES, record

# #0 and #1 are apart by far more than the noise, #1 and #2 are not; #3 is dearer and worse than all
RECORDS = [
    record(0, [(2.0, 400.0), (2.02, 400.0)]),
    record(1, [(3.0, 200.0), (3.02, 200.0)]),
    record(2, [(3.012, 300.0)]),
    record(3, [(9.0, 500.0)]),
    record(4, [(1.0, 1.0), (1.02, 1.0)], feasible=False),
]
SD = 0.02 / 2**0.5


@pytest.fixture
def standings() -> Standings:
    return Standings(RECORDS, OBJECTIVES, seed=0)


def test_intervals_are_pooled(standings: Standings) -> None:
    """Those that break a constraint have no place on the front, but their runs tell of the noise."""
    assert standings.noise is not None
    assert standings.noise.df == 3
    assert standings.noise.sd[0] == pytest.approx(SD)
    halves = {row.record.number: row.half for row in standings.rows}
    assert set(halves) == {0, 1, 2, 3}
    t = t_factor(0.9, 3)
    assert halves[0] == (pytest.approx(t * SD / 2**0.5), None)
    assert halves[2] == (pytest.approx(t * SD), None)
    assert standings.standing(RECORDS[2]).fresh == (pytest.approx(t * SD * 2**0.5), None)


def test_what_may_be_on_the_front_is_shown(standings: Standings) -> None:
    assert [row.record.number for row in standings.front] == [0, 1]
    assert [row.record.number for row in standings.near] == [2]
    assert [row.record.number for row in standings.shown] == [0, 1, 2]
    assert [row.record.number for row in standings.undecided] == [2]
    assert [row.record.number for row in standings.rivals(standings.near[0])] == [1]
    assert standings.rows[-1].p_front == 0
    assert standings.p_whole is not None
    assert standings.rows[2].p_front is not None
    assert standings.p_whole == pytest.approx(1 - standings.rows[2].p_front)  # the others are sure


def test_ties_are_called_ties(standings: Standings) -> None:
    zero, one, two = standings.shown
    assert standings.tied(one, two)
    assert not standings.tied(zero, one)
    assert [row.record.number for row in standings.ties(one)] == [2]
    data = standings.to_dict(two)
    assert data["ties"] == [1]
    assert data["on_front"] is False
    assert data["undecided"] is True
    low, high = data["intervals"]["val_loss"]
    assert low < 3.012 < high
    assert data["fresh_intervals"]["val_loss"][0] < low
    assert set(data["intervals"]) == {"val_loss"}
    json.dumps(data)
    json.dumps(standings.noise_dict())


@pytest.mark.slow
@pytest.mark.parametrize("sd", [0.05, 0.02, 0.005])
def test_the_whole_front_is_right_as_often_as_it_says(sd: float) -> None:
    """Twenty architectures that differ by 0.1 around their trend, refined until nothing is left."""
    claimed, right, settled = [], [], []
    params = [10.0 * (1 + index) for index in range(20)]
    for seed in range(300):
        random = np.random.default_rng(seed)
        losses = [5 - size / 100 + 0.1 * float(random.normal()) for size in params]
        standings = Standings(mean_over_runs(refined(losses, params, sd, 5, random)), OBJECTIVES, 0)
        claimed.append(standings.p_whole)
        right.append({row.record.number for row in standings.front} == true_front(losses))
        settled.append(not standings.undecided)
    sure = np.array(settled)
    print(
        f"sd {sd}: claimed {np.mean(claimed):.2f}, right {np.mean(right):.2f}; where all are settled "
        f"({sure.sum()}) {np.array(claimed)[sure].mean():.2f} and {np.array(right)[sure].mean():.2f}"
    )
    assert np.mean(claimed) == pytest.approx(np.mean(right), abs=0.1)


def test_without_repeats_nothing_is_claimed() -> None:
    standings = Standings([record(0, [(2.0, 400.0)]), record(1, [(3.0, 200.0)])], OBJECTIVES, 0)
    assert standings.noise is None
    assert standings.noise_dict() is None
    assert standings.p_whole is None
    assert standings.undecided == standings.near == []
    data = standings.to_dict(standings.rows[0])
    assert data["p_front"] is None
    assert data["intervals"] == {"val_loss": None}
    assert data["ties"] == []


def test_the_table_has_them(standings: Standings, tmp_path: Path) -> None:
    write_csv(RECORDS, OBJECTIVES, tmp_path / "all.csv", standings, Marks(RECORDS[0].number, ()))
    with (tmp_path / "all.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["runs"] for row in rows] == ["2", "2", "1", "1", "2"]
    assert rows[4]["p_front"] == ""
    assert [row["knee"] for row in rows] == ["True", *["False"] * 4]
    assert float(rows[2]["val_loss_half"]) == pytest.approx(t_factor(0.9, 3) * SD)


def test_the_noise_of_a_divergence_is_a_share_of_it() -> None:
    """Runs 10 % apart, at 0.01 and at 1 nats/token: both have the same noise, in logarithms."""
    objectives = (Objective(METRICS["kl"], None, "min"), Objective(METRICS["params"], None, "min"))
    ratio = 1.1
    records = [
        record(0, [(0.01, 400.0), (0.01 * ratio, 400.0)]),
        record(1, [(1.0, 200.0), (1.0 * ratio, 200.0)]),
        record(2, [(0.0, 500.0)]),  # the original
        record(3, [(1.15, 300.0)]),
    ]
    standings = Standings(records, objectives, seed=0)
    assert standings.noise is not None
    sd = math.log(ratio) / 2**0.5
    assert standings.noise.sd[0] == pytest.approx(sd)
    small, large, original, other = (standings.standing(item) for item in records)
    for row in (small, large):
        assert row.record.values is not None
        value = row.record.values[0]
        factor = math.exp(t_factor(0.9, 2) * sd / 2**0.5)
        assert standings.to_dict(row)["intervals"]["kl"] == pytest.approx([value / factor, value * factor])
    assert original.half[0] == 0
    assert standings.tied(large, other)
    assert not standings.tied(small, large)
    difference, half = standings.gap(large, other, 0)
    assert half is not None
    assert (difference <= half) == (math.log(1.15 / 1.05) <= t_factor(0.9, 2) * sd * 1.5**0.5)
