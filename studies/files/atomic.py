"""Atomic writes of JSON files, clean-up of temporary files, and readable errors for failed writes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surgery.config.json_source import read_object
from surgery.config.problems import Problem, UserError

TEMPORARY = ".tmp"


def write_json(path: Path, data: object) -> None:
    """Write JSON atomically, also across a crash of the machine."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        problem = Problem(
            "folder", str(path), f"can't be read: {error}", "remove the folder and prepare again"
        )
        raise UserError("Prepared data is damaged", [problem]) from error


def sweep(folder: Path, is_own: Callable[[str], bool]) -> None:
    """Remove the temporary files and folders that `is_own` accepts, of this run or of a killed one."""
    for leftover in folder.glob("*" + TEMPORARY):
        if not is_own(leftover.name):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Convert errors of the file system, such as a full disk, to a UserError.

    Raises:
        UserError: for every OSError inside of the block.
    """
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space or name another folder, then run again: finished shards are kept",
            errno.EDQUOT: "free some of your quota or name another folder, then run again",
            errno.EACCES: "name a folder you may write to (--out, or NAS_HOME for the default folder)",
            errno.EROFS: "name a folder you may write to (--out, or NAS_HOME for the default folder)",
        }
        hint = hints.get(error.errno or 0, "name another folder (--out, or NAS_HOME for the default folder)")
        problem = Problem("out", str(folder), f"can't be written: {error.strerror or error}", hint)
        raise UserError("The prepared data can't be written", [problem]) from error
