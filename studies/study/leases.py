"""Which workers are alive. A lease is a locked file: the system frees it the moment its process dies."""

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
    """Held by a worker for its life. Beside it the worker tells what it is doing."""

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
            if self.path.exists():  # else it was cleared away, unlocked as it was: make it again
                return handle
            os.close(handle)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def tell(self, status: Mapping[str, Any]) -> None:
        """Replaces the status whole, so that a reader never sees half of it."""
        temporary = self._status.with_suffix(".tmp")
        temporary.write_text(json.dumps(status), encoding="utf-8")
        os.replace(temporary, self._status)

    def release(self) -> None:
        """The worker is gone; what it left is removed where the folder still allows it."""
        with suppress(OSError):
            for path in (self._status, self._status.with_suffix(".tmp"), self.path):
                path.unlink(missing_ok=True)
        os.close(self._handle)


def host_of(worker: str) -> str:
    """The name of the machine that a worker runs on."""
    return worker.rsplit("-", 2)[0]


def is_alive(folder: Path, worker: str) -> bool | None:
    """Whether the worker holds its lease in this folder; None when there is no such lease."""
    try:
        handle = os.open(folder / f"{worker}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # shared: two who look at once must not take each other for the worker
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def statuses(folder: Path) -> list[dict[str, Any]]:
    """What the live workers say, in a stable order. Changes nothing: a dead worker's lease is evidence."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if not is_alive(folder, path.stem):
            continue
        try:
            found.append({"worker": path.stem, **read_object(path)})
        except (OSError, ValueError):  # gone just now
            continue
    return found


def dead(folder: Path) -> list[str]:
    """Names of workers that died without releasing their lease."""
    return [path.stem for path in sorted(folder.glob("*.lock")) if is_alive(folder, path.stem) is False]


def clear_dead(folder: Path) -> None:
    """Removes what dead workers left. Only once their trials are put back."""
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
            # removed while locked: a worker that is just making it waits for the lock and sees it gone
            for suffix in (".json", ".tmp", ".lock"):
                path.with_suffix(suffix).unlink(missing_ok=True)
        finally:
            os.close(handle)
