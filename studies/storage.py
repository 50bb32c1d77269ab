"""Optuna storage of a study: embedded by default, any Optuna URL by option.

The embedded one is Optuna's journal file behind a lock that the operating system frees when its holder is
killed. Several processes may append while a dashboard reads.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from surgery.problems import Problem, UserError

JOURNAL = "journal.log"


class FileLock(JournalFileOpenLock):
    """`flock` on a file beside the journal; also mends a last line that a killed writer left torn."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self.journal = journal
        self.handle: int | None = None

    def acquire(self) -> bool:
        handle = os.open(self.journal.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self.handle = handle
        _drop_torn_line(self.journal)
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
    try:
        if url is None:
            journal = folder / JOURNAL
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=FileLock(journal)))
        return optuna.storages.get_storage(url)
    except UserError:
        raise
    except Exception as error:  # every database driver has its own errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "leave --storage out for the embedded one, or check the URL and that its driver is installed"
        raise UserError("can't open the study's storage", [Problem("storage", url, reason, hint)]) from error


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
