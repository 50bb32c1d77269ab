"""A table of block times: each distinct block is timed once per machine, and kept. The clock is injected."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from studies.latency.measure import FEWEST, MOST, SECONDS, clock_of, measure
from studies.latency.table import STAGE, BlockTimer
from studies.latency.work import Setup, part_work
from studies.training.loop import Interrupted
from surgery.architecture import Architecture
from surgery.architecture.block_times import BlockTimes
from surgery.architecture.costs import cost_in_steps
from surgery.architecture.timed_parts import TimedPart, timed_parts
from surgery.config.problems import UserError
from tests.invented_times import invented, without_a_clock

CPU = torch.device("cpu")
METRICS = ["decode_ms@6", "prefill_ms@4"]
HYBRID = Architecture.from_dict({
    "backbone": {"vocab_size": 32, "dim": 16, "num_layers": 4, "num_heads": 2, "ffn_dim": 16},
    "layout": "FGFW", "mixers": {"W": {"window": 4}}, "loop": {"count": 2},
})  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_HOME", str(tmp_path))
    return tmp_path / "latency"


def parts_of(*architectures: Architecture) -> list[TimedPart]:
    return [part for item in architectures for part, _ in timed_parts(item)]


def stepping(seconds: float) -> Iterator[float]:
    """A clock on which each look comes so many seconds after the one before."""
    return (seconds * number for number in count())


def stopped() -> float:
    raise AssertionError("nothing is left to time")


def test_distinct_blocks_are_timed_once_stored_and_read_again(home: Path) -> None:
    timer = BlockTimer(Setup(CPU), stepping(1.0).__next__)
    times = BlockTimes(timer.machine)
    seen: list[tuple[str, int, int]] = []
    parts = parts_of(HYBRID, HYBRID)
    added = timer.fill(times, parts, METRICS, lambda *item: seen.append(item))
    distinct = len({part.name for part in parts})
    assert distinct == 5  # F, G, W, feed-forward, the rest
    assert len(added) == len(set(added)) == len(times.known) == 2 * distinct
    assert seen[0] == (STAGE, 0, 2 * distinct)
    assert seen[-1] == (STAGE, 2 * distinct, 2 * distinct)
    # every call took a second, which is divided by what it was of
    for part in parts:
        for metric, length in (("decode_ms", 6), ("prefill_ms", 4)):
            _, number = part_work(part, metric, length, timer.setup)
            assert times.of(part, metric, length).nanoseconds == round(1_000_000_000 / number)
    counted = timed_parts(HYBRID)
    assert sum(number for _, number in counted) == 1 + 2 * 4 * 2  # the rest, 2 passes, 4 layers, two parts
    assert cost_in_steps(HYBRID, "decode_ms@6", times) == sum(
        number * times.of(part, "decode_ms", 6).nanoseconds for part, number in counted
    )

    again = BlockTimer(Setup(CPU), stopped)
    others = BlockTimes(again.machine)
    assert sorted(again.fill(others, parts, METRICS)) == sorted(added)
    assert others.known == times.known
    assert again.fill(others, parts, METRICS) == []
    (file,) = home.glob("*.json")
    assert json.loads(file.read_text())["machine"] == timer.machine


def test_an_interrupted_timing_resumes_with_the_next_block() -> None:
    stops = iter([False, False, True])
    timer = BlockTimer(Setup(CPU))
    times = BlockTimes(timer.machine)
    with without_a_clock() as first, pytest.raises(Interrupted):
        timer.fill(times, parts_of(HYBRID), METRICS, should_stop=lambda: next(stops))
    times = BlockTimes(timer.machine)
    with without_a_clock() as second:
        timer.fill(times, parts_of(HYBRID), METRICS)
    assert len(first) == 2
    assert not set(first) & set(second)
    assert set(first) | set(second) == set(times.known)


def test_only_what_is_new_is_timed() -> None:
    other = Architecture(HYBRID.backbone, "FK", loop_count=2)
    with without_a_clock() as asked:
        timer = BlockTimer(Setup(CPU))
        times = BlockTimes(timer.machine)
        timer.fill(times, parts_of(HYBRID), METRICS)
        del asked[:]
        timer.fill(times, parts_of(other), METRICS)
    assert [times.known[key].label for key in asked] == ["K", "K"]


@pytest.mark.parametrize("text", ["[]", '{"times": {"decode_ms@1 ffn.0": ["fast"]}}', "{"])
def test_a_damaged_table_is_refused(text: str) -> None:
    timer = BlockTimer(Setup(CPU))
    timer.table.path.parent.mkdir(parents=True)
    timer.table.path.write_text(text)
    with pytest.raises(UserError, match=timer.table.path.name):
        timer.fill(BlockTimes(timer.machine), parts_of(HYBRID), METRICS)


def test_machines_have_tables_of_their_own() -> None:
    threads = torch.get_num_threads()
    one, two = BlockTimer(Setup(CPU)), BlockTimer(Setup(CPU, batch=2))
    try:
        torch.set_num_threads(threads + 1)
        three = BlockTimer(Setup(CPU))
    finally:
        torch.set_num_threads(threads)
    assert len({item.table.path for item in (one, two, three)}) == 3
    assert three.machine["threads"] == str(threads + 1)


def test_the_median_and_the_quartiles_are_of_the_repeats() -> None:
    ends = iter([0.0, 1.0, *(value for seconds in (3.0, 1.0, 2.0) for value in (10.0, 10.0 + seconds))])
    calls: list[None] = []
    result = measure(lambda: calls.append(None), CPU, ends.__next__)
    assert (result.seconds, result.spread, result.graph) == (2.0, 0.5, False)
    assert len(calls) == 2 + 1 + FEWEST


def test_quick_work_is_repeated_more_often() -> None:
    calls: list[None] = []
    result = measure(lambda: calls.append(None), CPU, stepping(0.005).__next__)
    assert result.seconds == pytest.approx(0.005)
    assert len(calls) == 2 + 1 + round(SECONDS / 0.005)
    del calls[:]
    result = measure(lambda: calls.append(None), CPU, stepping(0.0001).__next__)
    assert result.seconds == pytest.approx(0.0001 / 10)  # ten calls between two looks at the clock
    assert len(calls) == 2 + 1 + 10 * MOST


def test_a_single_thread_is_timed_by_what_it_computes() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert clock_of(CPU) is time.thread_time
        torch.set_num_threads(2)
        assert clock_of(CPU) is time.perf_counter
    finally:
        torch.set_num_threads(threads)


def test_invented_times_depend_on_the_block() -> None:
    assert len({invented(part, "decode_ms", 8).nanoseconds for part in parts_of(HYBRID)}) == 5
