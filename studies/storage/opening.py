"""Opening the Optuna storage of a study: the embedded one by default, a database by its address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from studies.storage.addresses import EMBEDDED_HINT, absolute, file_of, redacted, shown
from studies.storage.journal import Embedded
from surgery.config.problems import Problem, UserError

JOURNAL = "journal.log"
SQLITE_WAIT_SECONDS = 60  # for another worker's write; SQLite's own 5 s are too few on a slow disk

# raised when a disk or a database fails, here and inside Optuna
STORAGE_ERRORS = (OSError, StorageInternalError)


def open_storage(folder: Path, url: str | None, *, make: bool = True) -> BaseStorage:
    """Open the study's storage; `url` None is the journal in `folder`.

    Without `make` nothing is written: neither a database file nor tables.

    Raises:
        UserError: the storage can't be opened.
    """
    name = str(folder / JOURNAL) if url is None else shown(url)
    try:
        if url is None:
            return Embedded(folder / JOURNAL)
        url = absolute(url)
        options: dict[str, Any] = {}
        if (file := file_of(url)) is not None:
            options = {"engine_kwargs": {"connect_args": {"timeout": SQLITE_WAIT_SECONDS}}}
            if not make and not file.is_file():
                raise FileNotFoundError("there is no such file")
        # braces are a template to Optuna
        spelled = url.replace("{", "{{").replace("}", "}}")
        return optuna.storages.get_storage(RDBStorage(spelled, skip_table_creation=not make, **options))
    except UserError:
        raise
    except Exception as error:  # every database driver has its own errors
        if url is None:
            hint = "the file is damaged or not readable" if not isinstance(error, OSError) else ""
        else:
            hint = f"check the address and that its driver is installed, or {EMBEDDED_HINT}"
        problem = Problem("storage", name, reason_of(error), hint)
        raise UserError("can't open the study's storage", [problem]) from error


def reason_of(error: BaseException) -> str:
    """Return an error as one line, without the passwords of addresses that were read."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__  # Optuna's own words say nothing
    return redacted(str(error).splitlines()[0] if str(error).strip() else type(error).__name__)


@contextmanager
def explain_storage_errors(folder: Path) -> Iterator[None]:
    """Turn storage errors inside the block into user errors with a hint.

    Such errors are a full disk, a read-only folder, or a database that is gone.

    Raises:
        UserError: for every such error inside.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        if isinstance(error, OSError):
            location, reason = str(error.filename or folder), error.strerror or str(error)
        else:
            location, reason = "storage", reason_of(error)
        hint = "fix this and rerun the same command; finished trials are kept"
        raise UserError(
            f"study {folder.name} can't continue", [Problem(location, None, reason, hint)]
        ) from error
