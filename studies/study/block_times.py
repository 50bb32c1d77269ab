"""The block times of a study, kept with it: its costs stay the same wherever and whenever it is resumed.

Each time is an attribute of its own, so that workers that add different ones don't overwrite each other.
"""

from __future__ import annotations

from collections.abc import Iterable

import optuna

from studies.storage.attributes import BLOCK_TIME, LATENCY
from studies.storage.optuna_access import set_study_system_attr, study_system_attrs
from surgery.architecture.block_times import BlockTime, BlockTimes


def read_times(inner: optuna.Study) -> BlockTimes | None:
    """Return the times that a study has; None before blocks were timed."""
    attributes = study_system_attrs(inner)
    machine = attributes.get(LATENCY)
    if machine is None:
        return None
    known = {
        name.removeprefix(BLOCK_TIME): BlockTime.of(value)
        for name, value in attributes.items()
        if name.startswith(BLOCK_TIME)
    }
    return BlockTimes(machine, known)


def store_times(inner: optuna.Study, times: BlockTimes, keys: Iterable[str]) -> None:
    """Store the times of these keys; what the study has stays, and so do all times of another machine."""
    stored = study_system_attrs(inner)
    if LATENCY not in stored:
        set_study_system_attr(inner, LATENCY, dict(times.machine))
    elif stored[LATENCY] != dict(times.machine):
        return
    for key in keys:
        if BLOCK_TIME + key not in stored:
            set_study_system_attr(inner, BLOCK_TIME + key, times.known[key].to_list())
