"""Optuna storage of a study: embedded by default, any Optuna URL by option.

The embedded one is Optuna's journal file behind a lock that the operating system frees when its holder is
killed. Several processes may append while a dashboard reads.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from surgery.problems import Problem, UserError

JOURNAL = "journal.log"
SQLITE_WAIT_SECONDS = 60  # for another worker's write; SQLite's own 5 s are too few on a slow disk

# what a disk or a database that fails raises, here and below Optuna
STORAGE_ERRORS = (OSError, StorageInternalError)


class FileLock(JournalFileOpenLock):
    """`flock` on a file beside the journal; also mends a last line that a killed writer left torn."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self.journal = journal
        self.handle: int | None = None

    def acquire(self) -> bool:
        handle = os.open(self.journal.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            _drop_torn_line(self.journal)
        except BaseException:
            os.close(handle)  # or this process would wait for itself
            raise
        self.handle = handle
        return True

    def release(self) -> None:
        if self.handle is not None:
            os.close(self.handle)  # closing frees the lock
            self.handle = None


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """The study's storage; `url` None is the journal in `folder`.

    Raises:
        UserError: the storage can't be opened.
    """
    place = str(folder / JOURNAL) if url is None else without_password(url)
    try:
        if url is None:
            journal = folder / JOURNAL
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=FileLock(journal)))
        if url.startswith("sqlite"):
            options: dict[str, Any] = {"connect_args": {"timeout": SQLITE_WAIT_SECONDS}}
            return optuna.storages.get_storage(RDBStorage(url, engine_kwargs=options))
        return optuna.storages.get_storage(url)
    except Exception as error:  # every database driver has its own errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if url is None:
            hint = "the file is damaged or not readable" if not isinstance(error, OSError) else ""
        else:
            hint = (
                "leave --storage out for the embedded one, or check the URL and that its driver is installed"
            )
            reason = reason.replace(url, place)
        raise UserError(
            "can't open the study's storage", [Problem("storage", place, reason, hint)]
        ) from error


def without_password(url: str) -> str:
    """For messages: `mysql://me:secret@host/db` -> `mysql://me:***@host/db`."""
    return re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", url)


@contextmanager
def mendable(folder: Path) -> Iterator[None]:
    """Turns a full disk, a read-only folder or a database that is gone into something a user can mend.

    Raises:
        UserError: for every such error inside.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        if isinstance(error, OSError):
            place, reason = str(error.filename or folder), error.strerror or str(error)
        else:
            place, reason = "storage", str(error.__cause__ or error).splitlines()[0]
        hint = "mend it and run the same command again: finished trials are kept"
        raise UserError(f"study {folder.name} can't go on", [Problem(place, None, reason, hint)]) from error


def _drop_torn_line(journal: Path) -> None:
    """Cuts an unfinished last line: its writer died before the record was complete."""
    with journal.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        position = size
        while position > 0:
            step = min(4096, position)
            file.seek(position - step)
            found = file.read(step).rfind(b"\n")
            if found >= 0:
                file.truncate(position - step + found + 1)
                return
            position -= step
        file.truncate(0)
