"""Atomic writing of folders: a folder is written under a temporary name next to its path, then moved there.

A killed writer leaves `.NAME.nas-*.partial`, which the next writer of NAME deletes, or, if it was replacing a
model, `.NAME.nas-*.old`, which the next writer moves back if NAME is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.config.quantities import format_bytes
from surgery.files.lock import Lock
from surgery.hf.written import foreign

PARTIAL, OLD = ".partial", ".old"
# of temporary folders; tempfile appends random characters, so that users' folders do not match
_PREFIX = ".{}.nas-"
_RANDOM = re.compile(r"[a-z0-9_]{8}")


def check_target(
    out: str | os.PathLike[str], *, overwrite: bool = False, source: str | os.PathLike[str] | None = None
) -> Path:
    """Return the folder's absolute path if a model may be written there. Removes leftovers of killed writers.

    Args:
        out: the folder to write.
        overwrite: replace an existing model.
        source: the folder from which the model is made, which must not change.

    Raises:
        UserError: `out` is a file, or a folder that is not empty (with `overwrite`: that holds no model); it
            is the source, inside it, or contains it; or the folder can't be created.
    """
    path = expand(out).absolute()
    problem = None if source is None else _check_apart(path, expand(source))
    if problem is None:
        try:
            recover(path)
            problem = _check_taken(path, overwrite) or _check_parent(path)
        except OSError as error:
            problem = Problem("output", str(path), error.strerror or str(error))
    if problem is not None:
        raise UserError("can't write the model there", [problem])
    return path


def _check_apart(path: Path, source: Path) -> Problem | None:
    """Return a problem if one folder is or contains the other, after resolving links."""
    new, old = Path(os.path.realpath(path)), Path(os.path.realpath(source))
    if new == old:
        rule = "is the model itself"
    elif old in new.parents:
        rule = "is inside the model's folder"
    elif new in old.parents:
        rule = "holds the model's folder"
    else:
        return None
    return Problem("output", str(path), rule, f"choose a folder apart from {source}")


def _check_taken(path: Path, overwrite: bool) -> Problem | None:
    if path.is_dir():
        names = sorted(os.listdir(path))
        if names and not overwrite:
            return Problem("output", str(path), "exists and is not empty", "choose another, or overwrite it")
        if names and "config.json" not in names:
            return Problem("output", str(path), "is a folder that holds no model; it is not overwritten")
        if names and (strange := foreign(path)):
            rule = f"holds what nas did not write: {strange}; it is not overwritten"
            return Problem("output", str(path), rule, "choose another, or move that away")
    elif path.exists() or path.is_symlink():
        return Problem("output", str(path), "is not a folder")
    return None


def _check_parent(path: Path) -> Problem | None:
    """Return a problem if no folder can be created at `path`, so that it is reported before any work."""
    parent = path.parent
    while not os.path.lexists(parent) and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        return Problem("output", str(path), f"can't be made: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        return Problem("output", str(path), f"can't be made: {parent} can't be written to", _ELSEWHERE)
    return None


_ELSEWHERE = "choose a folder that you may write to"


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of `path`, which need not exist."""
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


@contextmanager
def staged(out: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder, which is moved to `out` if the block succeeds, and removed otherwise.

    Raises:
        UserError: `out` exists, or its disk is read-only or full. Nothing is left behind.
    """
    path = check_target(out, overwrite=overwrite)
    made: list[Path] = []  # parents created here, removed on failure
    temporary: Path | None = None
    lock: Lock | None = None  # on the temporary folder: shows that its writer is alive
    done = False
    try:
        made = _make_parents(path.parent)
        with _alone(path.parent):
            temporary = Path(
                tempfile.mkdtemp(prefix=_PREFIX.format(path.name), suffix=PARTIAL, dir=path.parent)
            )
            lock = Lock(temporary, create=False)
            with suppress(OSError):
                lock.acquire(wait=False)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        yield temporary
        with _alone(path.parent):
            old = _move(temporary, path)
        done = True
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"can't write {path}; nothing was left there", [_explain(error, path)]) from error
    finally:
        if lock is not None:
            lock.release()
        if not done:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):  # unless another process has written into them in the meantime
                for parent in reversed(made):
                    parent.rmdir()


def recover(path: Path) -> None:
    """Remove leftovers of killed writers of this folder, and restore a folder that one of them had moved.

    Folders of running writers are not touched.
    """
    if not path.parent.is_dir():
        return
    prefix = _PREFIX.format(path.name)
    try:
        with _alone(path.parent):
            names = sorted(name for name in os.listdir(path.parent) if name.startswith(prefix))
            for name in names:
                leftover = path.parent / name
                middle = name.removeprefix(prefix).rpartition(".")[0]
                if not _RANDOM.fullmatch(middle) or leftover.is_symlink() or not leftover.is_dir():
                    continue  # not created here
                if name.endswith(OLD) and not path.exists():
                    os.replace(leftover, path)
                elif name.endswith((PARTIAL, OLD)):
                    # OSError: a file system without locks on folders, where its writer may be alive
                    with suppress(OSError), Lock(leftover, create=False).attempt() as dead:
                        if dead:
                            shutil.rmtree(leftover, ignore_errors=True)
    except OSError:
        return  # not writable: the writing itself will report the reason


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Lock a parent folder: one process at a time creates, moves or removes folders in it."""
    lock = Lock(parent, create=False)
    with suppress(OSError):  # a file system without locks on folders, such as NFS
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make_sibling(path: Path, suffix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=_PREFIX.format(path.name), suffix=suffix, dir=path.parent))


def _make_parents(path: Path) -> list[Path]:
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    made: list[Path] = []
    for folder in reversed(missing):
        folder.mkdir()
        made.append(folder)
    return made


def _move(temporary: Path, path: Path) -> Path | None:
    """Move `temporary` to `path`. Returns the new path of a replaced folder, which is to be removed."""
    if not path.is_dir() or not os.listdir(path):
        os.replace(temporary, path)
        return None
    old = _make_sibling(path, OLD)
    os.replace(path, old)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(old, path)
        raise
    return old


def _explain(error: BaseException, path: Path) -> Problem:
    text = getattr(error, "strerror", None) or str(error)
    hint = ""
    if "No space left" in str(error):
        text, hint = "the disk is full", f"{format_bytes(free_bytes(path))} are free there"
    elif isinstance(error, PermissionError) or "Read-only" in text:
        hint = _ELSEWHERE
    return Problem("output", str(path), text, hint)
