"""Searches replayed on a part of the table: nothing trained twice, volumes as brute force counts them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from studies.benchmarks.search import (
    Replayed,
    SearchPlan,
    check_plan,
    read_rival,
    replay_all,
)
from studies.benchmarks.search_figures import band, bootstrapped, figures, quartiles
from studies.replay.simulation import Plan, Volume, replay
from studies.replay.table import Table
from surgery.config.problems import UserError
from tests.studies.replay.part import part_of_table

RUNGS = (0.22, 1.0)


@pytest.fixture(scope="module")
def table() -> Table:
    return part_of_table()


@pytest.mark.parametrize("stopping", ["forecast", "pareto", "median", "none"])
def test_no_token_is_trained_twice(table: Table, stopping: str) -> None:
    course = replay(table, Plan("random", stopping, seed=1, workers=3, rungs=RUNGS, trials=30))
    budget = table.space.proxy.tokens
    allowed = {round(RUNGS[0] * budget), budget}
    assert len(course.trained) == 30
    assert set(course.trained.values()) <= allowed
    assert sum(course.trained.values()) == course.spent == course.tokens[-1]
    assert len(set(course.ended)) == len(course.ended)
    assert set(course.ended) == {name for name, tokens in course.trained.items() if tokens == budget}
    assert set(course.stopped) == course.trained.keys() - set(course.ended)
    assert (len(course.stopped) == 0) == (stopping == "none")
    assert course.tokens == sorted(course.tokens)


def test_the_same_seed_gives_the_same_search(table: Table) -> None:
    first, second = (replay(table, Plan("gain", "forecast", 3, rungs=RUNGS, trials=14)) for _ in range(2))
    assert (first.ended, first.tokens, first.shares) == (second.ended, second.tokens, second.shares)
    assert first.ended != replay(table, Plan("gain", "forecast", 4, rungs=RUNGS, trials=14)).ended


def test_volume_is_that_of_brute_force(table: Table) -> None:
    """The union of boxes between points and the worst corner, counted on the grid of all coordinates."""
    some = sorted(table.entries)[:9]
    small = replace(table, entries={name: table.entries[name] for name in some})
    volume = Volume(small)
    rows = {
        name: (entry.curves[0][-1], entry.costs["params"], entry.costs["decode_flops@1024"])
        for name, entry in small.entries.items()
    }
    points = np.array(list(rows.values()))
    points = (points - points.min(axis=0)) / (points.max(axis=0) - points.min(axis=0))

    def brute(count: int) -> float:
        axes = [np.unique([*points[:, axis], 1.0]) for axis in range(3)]
        total = 0.0
        for i, x in enumerate(axes[0][:-1]):
            for j, y in enumerate(axes[1][:-1]):
                for k, z in enumerate(axes[2][:-1]):
                    if (points[:count] <= (x, y, z)).all(axis=1).any():
                        total += (
                            (axes[0][i + 1] - x) * (axes[1][j + 1] - y) * (axes[2][k + 1] - z)
                        )  # fmt: skip
        return total

    for count, name in enumerate(rows, start=1):
        assert volume.add(name) == pytest.approx(brute(count) / brute(len(rows)))
    assert volume.share == pytest.approx(1)


def test_a_pool_replays_as_one_process_does(table: Table, tmp_path: Path) -> None:
    table.save(tmp_path / "part.json.gz")
    plan = SearchPlan(tmp_path / "part.json.gz", ("random/none", "gain/forecast"), seeds=2, trials=12)
    (alone,) = replay_all([plan], 1, lambda text: None)
    (pooled,) = replay_all([plan], 2, lambda text: None)
    assert [(run.method, run.seed) for run in alone] == [
        (method, seed) for method in plan.methods for seed in (0, 1)
    ]
    assert [replace(run, overhead=()) for run in alone] == [replace(run, overhead=()) for run in pooled]
    assert all(run.duplicates == 0 and len(run.overhead) >= 12 for run in alone)


def test_a_search_ends_once_it_has_found_enough(table: Table) -> None:
    course = replay(table, Plan("random", "none", 0, rungs=RUNGS, trials=None, until=0.8))
    assert course.shares[-1] >= 0.8
    assert all(share < 0.8 for share in course.shares[:-1])


def test_what_stays_stopped_of_the_front_is_lost(table: Table, tmp_path: Path) -> None:
    file = tmp_path / "part.json.gz"
    table.save(file)
    plan = SearchPlan(file, ("random/none", "random/median"), seeds=1, rungs=RUNGS, trials=40, until=math.inf)
    ((whole, stopping),) = replay_all([plan], 1, lambda text: None)
    course = replay(table, Plan("random", "median", 0, rungs=RUNGS, trials=40))
    front = Volume(table).front
    assert whole.lost == 0
    assert stopping.lost == len([name for name in course.stopped if name in front]) / len(front)


def made_up(method: str, seed: int, tokens: tuple[float, ...], shares: tuple[float, ...]) -> Replayed:
    return Replayed(method, seed, tokens, shares, None, tokens[-1], 0)


def test_figures_of_made_up_runs() -> None:
    runs = [
        *(made_up("tpe/none", seed, (1.0, 10.0 * (seed + 1)), (0.5, 0.96)) for seed in range(3)),
        *(made_up("random/none", seed, (1.0, 50.0), (0.5, 0.96)) for seed in range(3)),
        *(made_up("gain/forecast", seed, (1.0, 5.0), (0.92, 1.0)) for seed in range(3)),
        *(made_up("random/median", seed, (1.0, 5.0), (0.5, 0.6)) for seed in range(3)),
    ]
    tpe, random, gain, median = figures(runs)
    assert tpe.tokens[0.95] == (15, 20, 25)
    assert (tpe.ratio, random.ratio, gain.ratio) == (1, 2.5, 0.25)
    assert gain.tokens[0.9] == (1, 1, 1)
    assert median.tokens[0.95] == (math.inf, math.inf, math.inf)
    assert median.ratio == math.inf
    assert median.to_dict()["ratio"] is None
    assert median.to_dict()["tokens"]["0.95"] == {"q25": None, "median": None, "q75": None}


def test_quartiles_of_what_some_never_reach() -> None:
    assert quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)
    assert quartiles([1, 2, math.inf, math.inf]) == (1.5, math.inf, math.inf)


def test_intervals_of_ratios() -> None:
    def runs(tokens: list[float]) -> list[Replayed]:
        return [made_up("a", seed, (value,), (0.96,)) for seed, value in enumerate(tokens)]

    assert bootstrapped(runs([3.0] * 4), runs([6.0] * 5)) == (0.5, 0.5)
    low, high = bootstrapped(runs(np.linspace(8, 12, 21).tolist()), runs([20.0] * 9))
    assert 0.4 < low < 0.5 < high < 0.6
    assert bootstrapped(runs([3.0, math.inf, math.inf]), runs([6.0])) == (0.5, math.inf)


def test_a_pool_changes_what_gain_can_choose(table: Table) -> None:
    whole, pool = (
        replay(table, Plan("gain", "none", 0, rungs=RUNGS, trials=16, pool=pool)) for pool in (False, True)
    )
    assert whole.ended[:5] == pool.ended[:5]  # drawn at random
    assert whole.ended != pool.ended
    assert len(set(pool.ended)) == 16


def test_a_band_is_a_staircase() -> None:
    runs = [made_up("a", seed, (1.0, 3.0), (0.4, 0.8)) for seed in range(3)]
    low, middle, high = band(runs, np.array([0.5, 1.0, 2.9, 3.0, 9.0]))
    assert middle.tolist() == low.tolist() == high.tolist() == [0, 0.4, 0.4, 0.8, 0.8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("gain/forecast", "tpa/none")}, "must be one of tpe, nsga2"),
        ({"methods": ("tpe/nine",)}, "must be one of none, median, pareto, forecast"),
        ({"methods": ("tpe",)}, "must be SAMPLER/STOPPING"),
        ({"rungs": (0.2, 1.0)}, "0.2 is no point of the table's curves"),
        ({"rungs": (0.5, 0.3, 1.0)}, "must rise"),
        ({"rungs": (0.3, 0.5)}, "must end with 1"),
        ({"table": Path("none.json.gz")}, "can't be read"),
    ],
)
def test_plans_that_can_not_be_replayed(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_plan(replace(SearchPlan(), **changes))  # type: ignore[arg-type]


def test_a_rival_is_measured_as_ours(table: Table, tmp_path: Path) -> None:
    """A search that ended the whole front, one after the other, but for one of it."""
    import json

    volume = Volume(table)
    front = sorted(volume.front)
    budget = table.space.proxy.tokens
    record = {
        "seed": 0, "budget": budget, "ended": front[1:], "spent": budget * len(front),
        "tokens": [budget * count for count in range(1, len(front))], "whole": True,
    }  # fmt: skip
    (tmp_path / "rival.jsonl").write_text(json.dumps(record) + "\n")
    (run,) = read_rival("rival", tmp_path / "rival.jsonl", table, math.inf)
    assert run.lost == pytest.approx(1 / len(front))
    assert run.tokens == tuple(range(1, len(front)))
    assert run.shares[-1] < 1
    (cut,) = read_rival("rival", tmp_path / "rival.jsonl", table, 0.5)
    assert cut.lost == run.lost  # the file tells the whole search
    assert cut.shares == run.shares[: len(cut.shares)]
    (tmp_path / "rival.jsonl").write_text(json.dumps(record | {"whole": False}))
    assert read_rival("rival", tmp_path / "rival.jsonl", table, math.inf)[0].lost is None
    (tmp_path / "rival.jsonl").write_text(json.dumps(record | {"ended": ["unknown"]}))
    with pytest.raises(UserError, match="searches of this table"):
        read_rival("rival", tmp_path / "rival.jsonl", table, 1)
    with pytest.raises(UserError, match="No such file"):
        read_rival("rival", tmp_path / "none.jsonl", table, 1)
