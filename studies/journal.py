"""The embedded storage: Optuna's journal in a file, behind a lock that the system frees when its holder dies.

Several processes may append while a dashboard reads.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileOpenLock


class Embedded(JournalStorage):
    """Optuna's journal storage in this file."""

    def __init__(self, path: Path) -> None:
        self.file = JournalFile(path)
        super().__init__(self.file)


class JournalFile(BaseJournalBackend):
    """An entry a line, as Optuna's own `JournalFileBackend` writes them; it can also take many at once."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, FileLock(path)
        self._read = (0, 0)  # entries, and their bytes
        self._batch: list[bytes] | None = None  # entries that wait to be written
        path.open("ab").close()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What is appended inside, this process reads at once, and others when the block ends: a writer that
        is killed before leaves nothing of it. From the first entry on nobody else appends. Not reentrant."""
        assert self._batch is None
        self._batch = []
        try:
            yield
        finally:
            lines, self._batch = self._batch, None
            if lines:
                try:
                    self._write(lines)
                finally:
                    self.lock.release()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
        if self._batch is None:
            self.lock.acquire()
            try:
                self._write(lines)
            finally:
                self.lock.release()
        else:
            if not self._batch:
                self.lock.acquire()
            self._batch += lines

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self._read_file(log_number_from)
        if self._batch:  # the file does not grow now, and is read to its end
            yield from map(json.loads, self._batch[max(0, log_number_from - self._read[0]) :])

    def _read_file(self, start: int) -> Iterator[dict[str, Any]]:
        count, place = self._read if self._read[0] <= start else (0, 0)
        with self.path.open("rb") as file:
            file.seek(place)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # it is being written, or its writer was killed
                count, place = count + 1, place + len(line)
                self._read = count, place
                if count > start:
                    yield json.loads(line)

    def _write(self, lines: list[bytes]) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())


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
