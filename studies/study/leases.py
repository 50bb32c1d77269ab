"""Leases of live workers. A lease is a locked file, which the system unlocks when its process dies."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from surgery.config.json_source import read_object

_WORKER = re.compile(r".+-\d+-[0-9a-f]{6}")


class Lease:
    """A lease held by a worker while it lives, with a file next to it for the worker's status."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.path = folder / f"{self.worker}.lock"
        self._status = folder / f"{self.worker}.json"
        self._handle = self._lock()

    def _lock(self) -> int:
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if self.path.exists():  # else it was deleted before it was locked: create it again
                return handle
            os.close(handle)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def report_status(self, status: Mapping[str, Any]) -> None:
        """Replace the status atomically, so that a reader never sees half of it."""
        temporary = self._status.with_suffix(".tmp")
        temporary.write_text(json.dumps(status), encoding="utf-8")
        os.replace(temporary, self._status)

    def release(self) -> None:
        """Release the lease and delete the worker's files, if the folder still allows it."""
        with suppress(OSError):
            for path in (self._status, self._status.with_suffix(".tmp"), self.path):
                path.unlink(missing_ok=True)
        os.close(self._handle)


def host_of(worker: str) -> str:
    """Return the name of the machine that a worker runs on."""
    return worker.rsplit("-", 2)[0]


def is_alive(folder: Path, worker: str) -> bool | None:
    """Return whether the worker holds its lease in this folder; None if there is no such lease."""
    try:
        handle = os.open(folder / f"{worker}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # shared: two processes that check at once must not take each other for the worker
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def statuses(folder: Path) -> list[dict[str, Any]]:
    """Return the statuses of the live workers, in a stable order, without deleting dead workers' leases."""
    live = []
    for path in sorted(folder.glob("*.json")):
        if not is_alive(folder, path.stem):
            continue
        try:
            live.append({"worker": path.stem, **read_object(path)})
        except (OSError, ValueError):  # just deleted
            continue
    return live


def dead(folder: Path) -> list[str]:
    """Return the names of workers that died without releasing their lease."""
    return [path.stem for path in sorted(folder.glob("*.lock")) if is_alive(folder, path.stem) is False]


def clear_dead(folder: Path) -> None:
    """Delete the files of dead workers. Only after their trials are requeued."""
    for path in folder.glob("*.lock"):
        if not _WORKER.fullmatch(path.stem):
            continue  # not a worker's
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            # deleted while locked: a worker that is just creating it waits for the lock and sees it missing
            for suffix in (".json", ".tmp", ".lock"):
                path.with_suffix(suffix).unlink(missing_ok=True)
        finally:
            os.close(handle)
