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
    """One process at a time; a second one waits here. The lock ends with its process, however that dies."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                same = os.fstat(descriptor).st_ino == (folder / LOCK).stat().st_ino
            except FileNotFoundError:
                same = False
            if same:  # else the one before us removed the folder while we waited: lock the new file
                yield
                return
        finally:
            os.close(descriptor)
