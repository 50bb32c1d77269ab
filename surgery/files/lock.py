"""Locks between processes, which the system releases when their holder ends, even if it is killed.

Why not the `filelock` package: it does not tell whether another process holds a lock without taking it, and
does not lock folders.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType


class Lock:
    """An exclusive lock (`flock`) on a file or a folder: one thread of one process at a time. Not reentrant.

    A forked child shares the parent's lock: the parent's `release` ends it, the child's does not, and if the
    parent is killed, it lasts until the child ends. Started programs do not inherit it.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Describe the lock without taking it.

        Args:
            path: what is locked.
            create: create the file if it is missing; False for folders, and for files that must exist.
        """
        self.path = path
        self._create = create
        self._handle: int | None = None
        self._owner = 0  # the process that took it

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock. Without `wait`, return False at once if another process or thread holds it.

        Raises:
            OSError: the path can't be opened, or its file system has no locks.
        """
        assert self._handle is None, "a lock is not reentrant"
        while True:
            # NFS grants an exclusive lock only to files opened for writing, which folders can't be
            writable = self._create or not self.path.is_dir()
            flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_CREAT if self._create else 0)
            handle = os.open(self.path, flags, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if _is_at(self.path, handle):
                    self._handle, self._owner = handle, os.getpid()
                    return True
                # the previous holder deleted it meanwhile: lock the new one
            except BlockingIOError:
                return False
            finally:
                if self._handle is None:
                    os.close(handle)

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        try:
            if self._owner == os.getpid():
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough: a forked child may have a copy
        finally:
            os.close(handle)

    @contextmanager
    def attempt(self) -> Iterator[bool]:
        """Hold the lock during the block if it is free; yields whether it was."""
        try:
            yield self.acquire(wait=False)
        finally:
            self.release()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool | None:
    """Return whether a live process holds the lock of this file; None if there is no such file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # shared: two processes that ask at once must not take each other for the holder
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
