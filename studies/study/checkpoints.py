"""Checkpoints of a study's trials: their paths, and deletion of those that no trial needs."""

from __future__ import annotations

from pathlib import Path

from studies.storage.attributes import WORKER
from studies.study.names import CHECKPOINT
from studies.study.study import Study
from surgery.files.atomic import TEMPORARY


def checkpoint_of(study: Study, number: int) -> Path:
    """Return the path of a trial's checkpoint, which need not exist."""
    return study.folder_of(number) / CHECKPOINT


def drop_checkpoint(study: Study, number: int) -> None:
    """Delete the checkpoint of a trial that has ended, also a half-written one."""
    path = checkpoint_of(study, number)
    for leftover in (path, path.with_suffix(TEMPORARY)):
        leftover.unlink(missing_ok=True)


def drop_leftovers(study: Study) -> None:
    """Delete the checkpoints that dead workers left in trials that have ended, and half-written ones."""
    trials = study.inner.get_trials(deepcopy=False)
    for path in (study.folder / "trials").glob("*/checkpoint.*"):
        number = int(path.parent.name) if path.parent.name.isdecimal() else len(trials)
        if number >= len(trials):
            continue  # not a trial's
        if trials[number].state.is_finished():
            drop_checkpoint(study, number)
        elif path.suffix == TEMPORARY and not trials[number].user_attrs.get(WORKER):
            path.unlink(missing_ok=True)
