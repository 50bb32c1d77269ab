"""Observations updated from call to call equal those made anew."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from studies.search.observe import Observer
from studies.study.trial_record import DONE, FAILED, INFEASIBLE, PAUSED, RUNNING, WAITING, TrialRecord
from studies.surrogates.observations import Observations

RUNGS = (0.25, 0.5, 1.0)
SPACE: Any = SimpleNamespace(
    proxy=SimpleNamespace(rungs=RUNGS),
    objectives=[
        SimpleNamespace(name="val_loss", direction="min"),
        SimpleNamespace(name="params", direction="min"),
        SimpleNamespace(name="speed", direction="max"),
    ],
)
FACTS: Any = SimpleNamespace(
    costs=lambda record: {"params": 10.0 * record.number},
    features=lambda record: (float(record.number), 1.0),
)


def observer() -> Observer:
    return Observer(SPACE, FACTS)


def record(number: int, state: str, rungs: int, speed: float, baseline: bool) -> TrialRecord:
    losses = tuple(5.0 - rung - number / 100 for rung in range(rungs))
    return TrialRecord(
        number=number, state=state, values=None, metrics={"val_loss": 1.0} if state == DONE else {}, line="",
        hash=str(number), architecture=None, baseline="dense" if baseline else None,
        feasible=state != INFEASIBLE, reason="", worker="", seconds=0.0, seeds=(), rungs=losses,
        measured={"speed": speed},
    )  # fmt: skip


def same(one: Observations, other: Observations) -> bool:
    return all(
        np.array_equal(getattr(one, item.name), getattr(other, item.name), equal_nan=item.name == "curves")
        for item in fields(Observations)
    )


states = st.sampled_from([RUNNING, WAITING, PAUSED, DONE, FAILED, INFEASIBLE])
changes = st.lists(
    st.tuples(st.integers(0, 7), states, st.integers(0, 2), st.sampled_from([1.0, 2.0]), st.booleans()),
    min_size=1, max_size=30,
)  # fmt: skip


@given(changes, st.integers(1, 4), st.integers(0, 7))
def test_renewed_observations_are_those_of_a_new_start(
    steps: list[tuple[int, str, int, float, bool]], every: int, fewer: int
) -> None:
    """Trials come, move on and fall back, several between two calls; a call may see an earlier moment."""
    kept, records = observer(), []
    for index, (number, *rest) in enumerate(steps):
        if number < len(records):
            records[number] = record(number, *rest)
        else:
            records.append(record(len(records), *rest))
        if index % every == 0:
            assert same(kept.observe(list(records)), observer().observe(records))
    assert same(kept.observe(records[:fewer]), observer().observe(records[:fewer]))
    assert same(kept.observe(records), observer().observe(records))


def test_the_same_object_while_nothing_is_new() -> None:
    kept, records = observer(), [record(0, DONE, 2, 1.0, False), record(1, RUNNING, 0, 1.0, False)]
    first = kept.observe(records)
    assert kept.observe([replace(item) for item in records]) is first
    assert kept.observe([records[0], replace(records[1], rungs=(4.0,))]) is not first
