"""Locks between processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for one process; others wait. The lock is released when its process ends, even killed."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                same = os.fstat(descriptor).st_ino == (folder / LOCK).stat().st_ino
            except FileNotFoundError:
                same = False
            if same:  # else the previous holder removed the folder meanwhile: lock the new file
                yield
                return
        finally:
            os.close(descriptor)
