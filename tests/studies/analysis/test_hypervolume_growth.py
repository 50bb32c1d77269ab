"""Hypervolume against counting on a grid, its growth as a real study's trials end, the random line."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.objectives import Objective
from search_spaces.proxy import Proxy
from studies.analysis.hypervolume_growth import growth, running_volumes, spent
from studies.stats.hypervolume import REFERENCE, Array, volume
from studies.stats.pareto import scaled
from studies.study.trial_record import DONE, FAILED, TrialRecord
from studies.workers.worker import work
from surgery.architecture.metrics import METRICS
from tests.studies.conftest import MakeStudy

PROXY = Proxy(tokens=1000, batch_tokens=100, seq_len=10)
OBJECTIVES = (Objective(METRICS["val_loss"], None, "min"), Objective(METRICS["params"], None, "max"))


def record(number: int, values: tuple[float, ...] | None, **fields: object) -> TrialRecord:
    known = {
        "state": DONE if values else FAILED, "metrics": {}, "line": "", "hash": str(number), "reason": "",
        "architecture": None, "baseline": None, "feasible": True, "worker": "", "seconds": 2.0, "seeds": (),
    }  # fmt: skip
    return TrialRecord(number=number, values=values, **{**known, **fields})  # type: ignore[arg-type]


@given(st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.tuples(*[st.integers(0, 10)] * width), min_size=1, max_size=6
    )
))  # fmt: skip
def test_volume_counts_cells(points: list[tuple[int, ...]]) -> None:
    """On a grid of tenths the volume is the number of cells that some point dominates."""
    width = len(points[0])
    corners = np.stack(np.meshgrid(*[np.arange(11)] * width), axis=-1).reshape(-1, width)
    covered = sum(any((np.array(point) <= corner).all() for point in points) for corner in corners)
    result = volume([np.array(point) / 10 for point in points])
    assert result == pytest.approx(covered / 11**width)


def test_nothing_dominates_nothing() -> None:
    assert volume([]) == volume([None]) == 0.0
    assert running_volumes([None, np.zeros(2), None]).tolist() == [0, 1, 1]


@given(st.lists(st.none() | st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=8))
def test_running_volumes_are_those_of_the_beginnings(rows: list[tuple[float, ...] | None]) -> None:
    points: list[Array | None] = [None if row is None else np.array(row) for row in rows]
    expected = [volume(points[: count + 1]) for count in range(len(points))]
    np.testing.assert_allclose(running_volumes(points), expected, atol=1e-12)


def test_scaled_from_best_to_worst() -> None:
    table = scaled([(3.0, 1.0), (5.0, 100.0), (4.0, 10.0)], OBJECTIVES)
    assert table.tolist() == [[0, 1], [1, 0], [0.5, pytest.approx(0.5)]]  # params by their logarithm


def test_failed_trials_cost_tokens_and_dominate_nothing() -> None:
    records = [
        record(0, (5.0, 2.0), suggested_by="random"),
        record(1, None, suggested_by="random"),
        record(2, (4.0, 3.0), suggested_by="tpe"),
        record(3, (1.0, 9.0), feasible=False, baseline="dense"),
        record(4, (4.5, 2.5), state="duplicate"),
    ]
    used = spent(records, OBJECTIVES, PROXY)
    assert [item.record.number for item in used] == [0, 1, 2, 3]
    assert [item.tokens for item in used] == [1000] * 4
    assert [item.point is None for item in used] == [False, True, False, True]
    result = growth(records, OBJECTIVES, PROXY)
    assert result.tokens.tolist() == [1000, 2000, 3000, 4000]
    assert result.seconds.tolist() == [2, 4, 6, 8]
    assert result.volumes[0] == result.volumes[1] < result.volumes[2] == result.volumes[3]
    assert result.alone["random"].tokens.tolist() == [1000, 2000]


def test_a_stopped_trial_costs_what_it_was_trained_on() -> None:
    from datetime import datetime

    ended = datetime(2026, 1, 1)
    records = [
        record(0, (5.0, 2.0), ended=ended.replace(day=2)),
        record(1, None, state="paused", tokens=300, ended=ended),
        record(2, None, state="running", tokens=100),
    ]
    used = spent(records, OBJECTIVES, PROXY)
    assert [(item.record.number, item.tokens) for item in used] == [(1, 300), (0, 1000)]


def test_the_random_line_is_the_mean_over_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.analysis.hypervolume_growth.ORDERS", 5000)
    points = [(5.0, 1.0), (3.0, 2.0), (4.0, 1.5)]
    records = [record(index, point, suggested_by="random") for index, point in enumerate(points)]
    result = growth(records, OBJECTIVES, PROXY)
    orders = list(permutations(scaled(points, OBJECTIVES)))
    exact = np.mean([running_volumes(list(order)) for order in orders], axis=0)
    mean, low, high = result.alone["random"].volumes
    np.testing.assert_allclose(mean, exact, atol=0.03)
    assert mean[-1] == pytest.approx(exact[-1])
    assert (low <= mean).all()
    assert (mean <= high + 1e-12).all()


def test_growth_of_a_real_study(make_study: MakeStudy, quiet: Callable[[str], None]) -> None:
    study = make_study()
    work(study, target=6, device="cpu", log=quiet)
    records = study.records()
    result = growth(records, study.space.objectives, study.space.proxy)
    assert len(result.numbers) == 6
    assert result.tokens.tolist() == [2048.0 * count for count in range(1, 7)]
    assert (np.diff(result.volumes) >= 0).all()
    assert 0 < result.volumes[-1] <= 1
    done = [item for item in records if item.state == DONE]
    table = scaled([item.values for item in done if item.values], study.space.objectives)
    feasible = [row for item, row in zip(done, table, strict=True) if item.feasible]
    assert result.volumes[-1] == pytest.approx(volume(feasible))
    chance = [item for item in records if item.suggested_by == "random" and item.counted]
    assert result.alone["random"].volumes.shape == (3, len(chance))
    assert set(result.alone) == {"random"}
    assert REFERENCE > 1
