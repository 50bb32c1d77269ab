"""Block times that are invented, not measured: whole nanoseconds that depend on the block's name alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from studies.latency.work import Setup
from surgery.architecture.block_times import BlockTime, BlockTimes, time_key
from surgery.architecture.timed_parts import TimedPart

MACHINE = {"device": "abacus", "dtype": "float32", "threads": "1", "batch": "1", "torch": "2", "nas": "1"}


def invented(part: TimedPart, metric: str, length: int) -> BlockTime:
    """The time of a part, between 1 and 2 ms and longer for longer contexts."""
    digits = int(part.name.rpartition(".")[2], 16)
    more = 1000 * length if part.depends_on_context or metric == "prefill_ms" else 0
    return BlockTime(1_000_000 + digits % 999_983 + more, 0.1, False, part.label)


def invented_times() -> BlockTimes:
    """A table that knows every block."""
    return BlockTimes(MACHINE, measure=invented)


@contextmanager
def without_a_clock() -> Iterator[list[str]]:
    """Invent times in this block where they would be measured; yields the keys of those asked for."""
    asked: list[str] = []

    def measure(part: TimedPart, metric: str, length: int, setup: Setup, clock: object) -> BlockTime:
        asked.append(time_key(part, metric, length))
        return invented(part, metric, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("studies.latency.table.measure_part", measure)
        yield asked
