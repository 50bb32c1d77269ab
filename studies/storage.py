"""Optuna storage of a study: embedded by default (`studies.journal`), any Optuna URL by option."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from studies.journal import Embedded
from surgery.problems import Problem, UserError

JOURNAL = "journal.log"
SQLITE_WAIT_SECONDS = 60  # for another worker's write; SQLite's own 5 s are too few on a slow disk

# what a disk or a database that fails raises, here and below Optuna
STORAGE_ERRORS = (OSError, StorageInternalError)


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """The study's storage; `url` None is the journal in `folder`.

    Raises:
        UserError: the storage can't be opened.
    """
    place = str(folder / JOURNAL) if url is None else without_password(url)
    try:
        if url is None:
            return Embedded(folder / JOURNAL)
        if url.startswith("sqlite"):
            options: dict[str, Any] = {"connect_args": {"timeout": SQLITE_WAIT_SECONDS}}
            return optuna.storages.get_storage(RDBStorage(url, engine_kwargs=options))
        return optuna.storages.get_storage(url)
    except UserError:  # a damaged journal names its line
        raise
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
