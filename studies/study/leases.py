"""Leases of live workers. A lease is a locked file, which the system unlocks when its process dies."""

from __future__ import annotations

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
from surgery.files.atomic import TEMPORARY, replacing
from surgery.files.lock import Lock, is_held

_WORKER = re.compile(r".+-\d+-[0-9a-f]{6}")


class Lease:
    """A lease held by a worker while it lives, with a file next to it for the worker's status."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.path = folder / f"{self.worker}.lock"
        self._status = folder / f"{self.worker}.json"
        self._temporary = folder / f"{self.worker}{TEMPORARY}"
        self._lock = Lock(self.path)
        self._lock.acquire()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def report_status(self, status: Mapping[str, Any]) -> None:
        """Replace the status atomically, so that a reader never sees half of it."""
        with replacing(self._status, self._temporary, durable=False) as temporary:
            temporary.write_text(json.dumps(status), encoding="utf-8")

    def release(self) -> None:
        """Release the lease and delete the worker's files, if the folder still allows it."""
        with suppress(OSError):
            for path in (self._status, self._temporary, self.path):
                path.unlink(missing_ok=True)
        self._lock.release()


def host_of(worker: str) -> str:
    """Return the name of the machine that a worker runs on."""
    return worker.rsplit("-", 2)[0]


def is_alive(folder: Path, worker: str) -> bool | None:
    """Return whether the worker holds its lease in this folder; None if there is no such lease."""
    return is_held(folder / f"{worker}.lock")


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
        # FileNotFoundError: another process cleared it
        with suppress(FileNotFoundError), Lock(path, create=False).attempt() as free:
            if free:
                # deleted while locked: a worker that is just creating it waits, and then creates a new one
                for suffix in (".json", TEMPORARY, ".lock"):
                    path.with_suffix(suffix).unlink(missing_ok=True)
