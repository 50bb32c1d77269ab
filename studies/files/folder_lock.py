"""The lock of a folder, in a file inside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.files.lock import Lock

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, created if it is missing, for one process; others wait."""
    lock = Lock(folder / LOCK)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
            break
        except FileNotFoundError:  # the previous holder removed the folder meanwhile
            if lock.path.is_symlink():  # to nowhere
                raise
    try:
        yield
    finally:
        lock.release()
