"""Which workers are alive. A lease is a locked file: the system frees it the moment its process dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Lease:
    """Held by a worker for its life. Beside it the worker tells what it is doing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.path = folder / f"{self.worker}.lock"
        self._status = folder / f"{self.worker}.json"
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def tell(self, status: Mapping[str, Any]) -> None:
        """Replaces the status whole, so that a reader never sees half of it."""
        temporary = self._status.with_suffix(".tmp")
        temporary.write_text(json.dumps(status), encoding="utf-8")
        os.replace(temporary, self._status)

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        self._status.unlink(missing_ok=True)
        os.close(self._handle)


def is_alive(folder: Path, worker: str) -> bool:
    """Whether the worker still holds its lease in this folder."""
    try:
        handle = os.open(folder / f"{worker}.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def statuses(folder: Path) -> list[dict[str, Any]]:
    """What the live workers say, in a stable order; what dead ones left is removed."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if not is_alive(folder, path.stem):
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
            continue
        try:
            found.append({"worker": path.stem, **json.loads(path.read_text(encoding="utf-8"))})
        except (OSError, json.JSONDecodeError):  # gone or being replaced just now
            continue
    return found
