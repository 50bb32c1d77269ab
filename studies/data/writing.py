"""Clean-up of a data folder's temporary files, and readable errors for failed writes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.config.problems import Problem, UserError
from surgery.files.atomic import TEMPORARY


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
            errno.EACCES: "name a folder you may write to (--output, or NAS_HOME for the default folder)",
            errno.EROFS: "name a folder you may write to (--output, or NAS_HOME for the default folder)",
        }
        hint = hints.get(
            error.errno or 0, "name another folder (--output, or NAS_HOME for the default folder)"
        )
        problem = Problem("out", str(folder), f"can't be written: {error.strerror or error}", hint)
        raise UserError("The prepared data can't be written", [problem]) from error
