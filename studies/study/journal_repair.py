"""Repair of a damaged journal: a copy up to the last good line, with the damaged file kept next to it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from studies.files.folder_lock import locked
from studies.storage.attributes import HASH
from studies.storage.journal import Embedded, lock_of
from studies.storage.journal_entries import STUDY
from studies.storage.journal_lines import START, read
from studies.storage.opening import JOURNAL, explain_storage_errors
from studies.storage.optuna_access import trials_of
from studies.study.leases import is_alive
from studies.study.names import CHECKPOINT
from surgery.config.problems import Problem, UserError
from surgery.files.atomic import replacing


@dataclass(frozen=True)
class Repair:
    """Result of a repair: kept and set-aside parts. `damage` is None if there was nothing to repair."""

    damage: Problem | None
    lines: int  # kept
    dropped: int
    trials: int  # kept
    set_aside: tuple[
        Path, ...
    ]  # the damaged journal, and checkpoints of trials that are not in the kept lines


def repair(folder: Path) -> Repair:
    """Replace the journal of a study by its lines before the first damaged one. Nothing is deleted.

    Raises:
        UserError: workers are training, no line of the study would be left, or the folder can't be written.
    """
    journal = folder / JOURNAL
    if not journal.is_file():
        raise UserError("nothing to repair", [Problem("study", str(folder), f"has no {JOURNAL}")])
    with explain_storage_errors(folder), locked(folder), lock_of(journal):
        _refuse_while_in_use(folder)
        damage, good, offset = _good_lines(journal)
        if damage is None:
            return Repair(None, good, 0, _trials(journal), ())
        with replacing(journal, journal.with_name(JOURNAL + ".repaired")) as copy:
            with journal.open("rb") as source, copy.open("wb") as target:
                target.write(source.read(offset))
            storage = Embedded(copy)
            if not any(STUDY in study.user_attrs for study in storage.get_all_studies()):
                hint = "start it again under another --name, or restore the file from a backup"
                rule = f"is damaged at line {damage.line}, before the study was complete: nothing can be kept"
                raise UserError("the journal can't be repaired", [Problem(str(journal), None, rule, hint)])
            aside = _free_name(journal)
            shutil.copy2(journal, aside)
            kept = [journal.with_name(aside.name), *_set_checkpoints_aside(folder, storage, aside.suffix)]
        total = _count_lines(aside)
        return Repair(damage, good, total - good, _trials(journal), tuple(kept))


def _refuse_while_in_use(folder: Path) -> None:
    names = [path.stem for path in sorted((folder / "workers").glob("*.lock"))]
    alive = [name for name in names if is_alive(folder / "workers", name)]
    if alive:
        problem = Problem("workers", ", ".join(alive), "are training", "stop them first")
        raise UserError("the study is in use", [problem])


def _good_lines(journal: Path) -> tuple[Problem | None, int, int]:
    """Return (the damage, lines before it, their bytes), counting complete batches only."""
    try:
        Embedded(journal)
        damage = None
    except UserError as error:
        damage = error.problems[0]
    last = START
    try:
        for position, _ in read(journal):
            if damage is not None and damage.line is not None and position.lines >= damage.line:
                break
            last = position
    except UserError:  # the damage is in the text of a line
        pass
    return damage, last.lines, last.offset


def _trials(journal: Path) -> int:
    storage = Embedded(journal)
    return sum(len(trials_of(storage, study)) for study in storage.get_all_studies())


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _free_name(journal: Path) -> Path:
    """Return `journal.log.damaged-1`, or the next free number."""
    number = 1
    while (path := journal.with_name(f"{journal.name}.damaged-{number}")).exists():
        number += 1
    return path


def _set_checkpoints_aside(folder: Path, storage: Embedded, suffix: str) -> list[Path]:
    """Rename the checkpoints of trials that are not in the kept lines, and return the new paths.

    The numbers of these trials will be given to other architectures.
    """
    study = next(study for study in storage.get_all_studies() if STUDY in study.user_attrs)
    known = {trial.number for trial in trials_of(storage, study) if HASH in trial.user_attrs}
    moved = []
    for path in sorted((folder / "trials").glob(f"*/{CHECKPOINT}")):
        if path.parent.name.isdecimal() and int(path.parent.name) not in known:
            target = path.with_name(path.name + suffix)
            os.replace(path, target)
            moved.append(target)
    return moved
