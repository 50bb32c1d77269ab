"""A copy of a study, to plan with: what is done to it leaves the study as it is."""

from __future__ import annotations

from pathlib import Path

import optuna

from studies.storage.journal import Embedded
from studies.storage.opening import JOURNAL
from studies.storage.optuna_access import storage_of
from studies.study.names import CHECKPOINT
from studies.study.study import Study


def copy_study(study: Study, runs: Path) -> Study:
    """Return a copy with all trials, in a folder of `runs`; nothing is written into the study.

    Where a trial has a checkpoint, the copy has an empty file.
    """
    folder = runs / study.name
    folder.mkdir(parents=True)
    journal = Embedded(folder / JOURNAL)
    with journal.batch():
        optuna.copy_study(
            from_study_name=study.inner.study_name, from_storage=storage_of(study.inner),
            to_storage=journal, to_study_name=study.name,
        )  # fmt: skip
    copy = Study.open(study.name, runs)
    for path in sorted((study.folder / "trials").glob(f"*/{CHECKPOINT}")):
        there = copy.folder / path.relative_to(study.folder)
        there.parent.mkdir(parents=True)
        there.touch()
    return copy
