"""The embedded storage: Optuna's journal in a file, behind a lock that the system frees if its holder dies.

Several processes and threads may append while a dashboard reads.

Why not Optuna's `JournalFileBackend`: its lock is a file that a killed holder leaves, and others wait 30
seconds before they break it; entries are appended one by one, also to half a line, and have no checksums.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from studies.storage.journal_entries import wrong
from studies.storage.journal_lines import CHAIN, START, chain, damaged, encode, read, trim
from surgery.config.problems import UserError
from surgery.files.lock import Lock

# raised by Optuna for an entry with invalid contents
DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


class Embedded(JournalStorage):
    """Optuna's journal storage in a file with checksums."""

    def __init__(self, path: Path) -> None:
        self.file = JournalFile(path)
        super().__init__(self.file)
        self._lock_by_thread()

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._lock_by_thread()

    def _lock_by_thread(self) -> None:
        # reentrant: `batch` holds it while its thread reads and writes, and other threads wait
        self._thread_lock = threading.RLock()  # type: ignore[assignment]

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Collect appended entries and write them in one piece when the block ends.

        A writer that is killed before then leaves none of them. Other threads wait until then, because an
        entry that was read must not be lost. Not reentrant.
        """
        with self._thread_lock, self.file.batch():
            yield

    def _sync_with_backend(self) -> None:
        replayed = self._replay_result
        latest: dict[str, Any] = {}

        def logs() -> Iterator[dict[str, Any]]:
            nonlocal latest
            for log in self.file.read_logs(replayed.log_number_read):
                latest = log
                # entries with a checksum, and those that this thread just wrote, are unchanged
                known = CHAIN in log or log.get("worker_id") == replayed.worker_id
                if not known and (rule := wrong(log, replayed)):
                    raise damaged(self.file.path, replayed.log_number_read, rule)
                yield log

        try:
            replayed.apply_logs(logs())
        except UserError:
            raise
        except DAMAGE as error:
            if not latest or latest["worker_id"] == replayed.worker_id:
                raise  # this thread asked for something impossible
            rule = f"can't be applied: {str(error) or type(error).__name__}"
            raise damaged(self.file.path, replayed.log_number_read - 1, rule) from error


class JournalFile(BaseJournalBackend):
    """One entry per line, as Optuna's own `JournalFileBackend` writes them, chained by checksums."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = START  # position after the last read; immutable, so that threads may share it
        self._batch: list[bytes] | None = None  # entries to be written when the batch ends
        self._owner: int | None = None  # the thread that the batch belongs to
        self._free = threading.RLock()  # held during a batch, and by each write
        if not path.exists():  # what exists may be read-only
            path.open("ab").close()

    def __getstate__(self) -> dict[str, Any]:
        assert self._batch is None, "a batch belongs to one process"
        return {**self.__dict__, "_free": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _free=threading.RLock())

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Collect the entries that this thread appends, and write them in one piece when the block ends.

        This thread reads them at once. No other thread appends meanwhile, and from the first entry on no
        other process. Not reentrant.
        """
        with self._free:
            assert self._batch is None, "a batch is not reentrant"
            self._batch, self._owner = [], threading.get_ident()
            with ExitStack() as self._held:
                try:
                    yield
                finally:
                    texts, self._batch, self._owner = self._batch, None, None
                    if texts:
                        self._write(texts)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, or add them to the current batch."""
        texts = encode(logs)
        with self._free:
            if self._batch is None:
                with lock_of(self.path):
                    self._write(texts)
                return
            if not self._batch:
                self._held.enter_context(lock_of(self.path))
            self._batch += texts

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the entries from this number on, counted from 0.

        Raises:
            UserError: a line is damaged.
        """
        position = self._read if self._read.lines <= log_number_from else START
        waiting = list(self._batch or ()) if self._owner == threading.get_ident() else []
        for after, batch in read(self.path, position):
            yield from batch[max(0, log_number_from - position.lines) :]
            position = self._read = after
        if waiting:  # the file does not grow now, and was read to its end
            yield from map(json.loads, waiting[max(0, log_number_from - position.lines) :])

    def _write(self, texts: list[bytes]) -> None:
        """Append a batch, completely or not at all. The file must be locked."""
        with self.path.open("rb+", buffering=0) as file:
            checksum = trim(file)
            end = file.seek(0, os.SEEK_END)
            rest = memoryview(chain(texts, checksum))
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:  # a full disk
                with suppress(OSError):
                    file.truncate(end)
                raise


def lock_of(journal: Path) -> Lock:
    """Return the lock of a journal's writers: a file next to it."""
    return Lock(journal.with_suffix(".lock"))
