"""Atomic writes: a file gets a temporary name until it is complete, so that no reader sees part of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp"


@contextmanager
def replacing(path: Path, temporary: Path | None = None, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; what the block writes there replaces `path`, unless the block fails.

    Args:
        path: file to write.
        temporary: temporary path in the same folder, deleted on failure; `NAME.tmp` if not given. A killed
            writer leaves it, and processes that write the same file at once need one each.
        durable: as for `publish`.
    """
    temporary = temporary or path.with_name(path.name + TEMPORARY)
    try:
        yield temporary
        publish(temporary, path, durable=durable)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path, *, durable: bool = True) -> None:
    """Rename a complete file to `path`, replacing what is there.

    Args:
        temporary: complete file, in the same folder as `path`.
        path: its name from now on.
        durable: write it to disk first, so that a crash of the machine does not leave an empty file either.
    """
    if durable:
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
    os.replace(temporary, path)
