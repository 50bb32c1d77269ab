"""Creation of studies: completely or not at all, and never over files that nas did not write.

A study has a mark from the step that creates it, and the attribute `nas` once it is complete. A study with
the mark alone is incomplete and may be created again. One with neither is foreign, and is not changed.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search_spaces import SearchSpace
from studies.files.folder_lock import LOCK, locked
from studies.storage.addresses import shown
from studies.storage.attributes import BASELINE, MARK
from studies.storage.opening import JOURNAL, explain_storage_errors
from studies.storage.optuna_access import storage_of
from studies.study.location import HOME_FILE, URL_FILE
from surgery.config.problems import Problem, UserError

SPACE_FILE = "space.yaml"
LONGEST_SECONDS = 3600.0  # a study still incomplete after so long was interrupted, on any machine
_STAGE = ".nas-making"  # a folder in which a journal is written
# what nas writes into a study's folder from its start on
_WRITTEN = (JOURNAL, URL_FILE, HOME_FILE, "trials", "workers", "workers.log", "front.json", "audit")


def new_mark() -> dict[str, Any]:
    """Return a mark that identifies a study created now."""
    return {"id": uuid.uuid4().hex, "host": socket.gethostname(), "time": time.time()}


def start(
    storage: BaseStorage,
    name: str,
    space: SearchSpace,
    mark: dict[str, Any] | None = None,
) -> optuna.Study:
    """Create an Optuna study in a storage, marked from the start, the space's baselines queued first."""
    directions = [
        StudyDirection.MINIMIZE if item.direction == "min" else StudyDirection.MAXIMIZE
        for item in space.objectives
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        create(storage, name, directions, mark)
        inner = optuna.load_study(storage=storage, study_name=name)
        inner.set_metric_names([item.name for item in space.objectives])
    for baseline, architecture in space.baselines.items():
        inner.enqueue_trial(space.params_of(architecture) or {}, user_attrs={BASELINE: baseline})
    return inner


def create(
    storage: BaseStorage, name: str, directions: Sequence[StudyDirection], mark: dict[str, Any] | None
) -> None:
    """Create an empty Optuna study with the mark: in a database both in one transaction.

    Raises:
        DuplicatedStudyError: a study of that name exists.
    """
    backend = getattr(storage, "_backend", storage)
    if mark is not None and isinstance(backend, RDBStorage):
        _create_marked(backend, name, directions, mark)
        return
    study_id = storage.create_new_study(directions, name)
    if mark is not None:
        storage.set_study_user_attr(study_id, MARK, mark)


def _create_marked(
    backend: RDBStorage, name: str, directions: Sequence[StudyDirection], mark: dict[str, Any]
) -> None:
    from optuna.storages._rdb import models
    from sqlalchemy.exc import IntegrityError, SQLAlchemyError
    from sqlalchemy.orm import Session

    rows = [
        models.StudyDirectionModel(objective=index, direction=direction)
        for index, direction in enumerate(directions)
    ]
    study = models.StudyModel(study_name=name, directions=rows)
    note = models.StudyUserAttributeModel(study=study, key=MARK, value_json=json.dumps(mark))
    try:
        with Session(backend.engine) as session, session.begin():
            session.add_all([study, note])
    except IntegrityError as error:
        raise DuplicatedStudyError from error
    except SQLAlchemyError as error:
        raise optuna.exceptions.StorageInternalError("the study was not stored") from error


@contextmanager
def staged_journal(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for a journal, which is moved into `folder` when the block ends."""
    stage = folder / _STAGE
    shutil.rmtree(stage, ignore_errors=True)  # left by a killed process: this one holds the folder's lock
    stage.mkdir()
    try:
        yield stage
        (stage / JOURNAL).rename(folder / JOURNAL)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def remove_cut_off(inner: optuna.Study, own_id: str, where: str) -> None:
    """Delete an incomplete study, if it is certain that nas made it and no process is still creating it.

    Args:
        inner: a study without the attribute `nas`.
        own_id: the id in the study's folder; empty if it has none.
        where: the storage, for messages.

    Raises:
        UserError: nas did not make the study, or another machine may still be creating it.
    """
    mark = inner.user_attrs.get(MARK)
    trials = inner.get_trials(deepcopy=False)
    if not isinstance(mark, dict) or any(trial.state != TrialState.WAITING for trial in trials):
        raise foreign(inner, where)
    if mark.get("id") != own_id and time.time() - float(mark.get("time", 0.0)) < LONGEST_SECONDS:
        rule = f"is being made by nas on {mark.get('host')}, or was interrupted less than an hour ago"
        hint = "run the command again there, or later here; or give another --name"
        raise UserError("the study is not complete", [Problem("study", inner.study_name, rule, hint)])
    optuna.delete_study(study_name=inner.study_name, storage=storage_of(inner))


def foreign(inner: optuna.Study, where: str) -> UserError:
    """Return the error for a study that nas did not make, or did not complete."""
    name, count = inner.study_name, len(inner.get_trials(deepcopy=False))
    trials = f"{count} trial{'' if count == 1 else 's'}, {len(inner.directions)} objective"
    trials += "" if len(inner.directions) == 1 else "s"
    if MARK in inner.user_attrs:
        rule, hint = "is not complete: its creation was interrupted", "run nas search again"
        return UserError("no such study", [Problem("study", name, rule, hint)])
    rule = f"in {where} was not made by nas ({trials}); it is left as it is"
    return UserError("not a study of nas", [Problem("study", name, rule, "give another --name")])


def foreign_journal(folder: Path) -> UserError:
    """Return the error for a journal in a study's folder that holds none of nas' studies."""
    rule = "was not made by nas, or its creation was interrupted by an early version; it is left as it is"
    problem = Problem(JOURNAL, str(folder / JOURNAL), rule, "give another --name, or move the file away")
    return UserError("not a study of nas", [problem])


def refuse_occupied(folder: Path, space_text: str) -> None:
    """Check that a new study's folder holds no files whose names the study needs.

    Raises:
        UserError: it holds such files.
    """
    taken = [name for name in _WRITTEN if (folder / name).exists() and not _is_empty(folder / name)]
    space = folder / SPACE_FILE
    if space.exists() and (not space.is_file() or space.read_bytes() != space_text.encode()):
        taken.append(SPACE_FILE)
    if taken:
        rule = f"holds files that are not a study's: {', '.join(taken)}"
        problem = Problem("folder", str(folder), rule, "give another --name, or move them away")
        raise UserError("can't make the study", [problem])


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.name == JOURNAL and path.stat().st_size == 0


@contextmanager
def creating(folder: Path) -> Iterator[None]:
    """Lock the folder; if an error ends the block, remove what it created there, and nothing else.

    Raises:
        UserError: the folder or the storage can't be written, or the study exists already.
    """
    created = [path for path in (folder / LOCK, folder, *folder.parents) if not path.exists()]
    try:
        with explain_storage_errors(folder), locked(folder):
            before = {path.name for path in folder.iterdir()}
            try:
                yield
            except BaseException:
                _remove_created(folder, before, created)
                raise
    except DuplicatedStudyError as error:
        problem = Problem("study", folder.name, "exists already", "give another --name")
        raise UserError("can't make the study", [problem]) from error


def _remove_created(folder: Path, before: set[str], created: list[Path]) -> None:
    """Remove created files. The folder's lock must be held: waiting processes check that it still exists."""
    with suppress(OSError):
        for name in {JOURNAL, "journal.lock", URL_FILE, HOME_FILE, SPACE_FILE} - before:
            (folder / name).unlink(missing_ok=True)
        for path in created:
            if path.name == LOCK:
                path.unlink()
            else:
                path.rmdir()  # fails if another process has written into it meanwhile


def where(folder: Path, url: str | None) -> str:
    """Return the storage of a study, for messages."""
    return str(folder / JOURNAL) if url is None else shown(url)


@contextmanager
def deleting_on_error(storage: BaseStorage, name: str, own_id: str) -> Iterator[None]:
    """Delete the study that the block has begun to create, if an error ends the block."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the storage may be what failed: the mark identifies the study later
            begun = optuna.load_study(study_name=name, storage=storage)
            if begun.user_attrs.get(MARK, {}).get("id") == own_id:
                optuna.delete_study(study_name=name, storage=storage)
        raise


def write_space(folder: Path, text: str) -> None:
    """Write the space as it was given, unless the file exists."""
    with suppress(FileExistsError), (folder / SPACE_FILE).open("x", encoding="utf-8") as file:
        file.write(text)
