"""All or nothing on disk: a folder is written under a temporary name beside its place, then moved there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from surgery.paths import expand
from surgery.problems import Problem, UserError
from surgery.quantities import format_bytes


def check_target(out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The folder's absolute path, if a model may be written there.

    Raises:
        UserError: a file stands there, or a folder that is not empty (with `overwrite`: that holds no model).
    """
    path = expand(out).absolute()
    problem = None
    try:
        if path.is_dir():
            names = sorted(os.listdir(path))
            if names and not overwrite:
                problem = Problem(
                    "output", str(path), "exists and is not empty", "choose another, or overwrite it"
                )
            elif names and "config.json" not in names:
                problem = Problem(
                    "output", str(path), "is a folder that holds no model; it is not overwritten"
                )
        elif path.exists() or path.is_symlink():
            problem = Problem("output", str(path), "is not a folder")
    except OSError as error:
        problem = Problem("output", str(path), error.strerror or str(error))
    if problem is not None:
        raise UserError("can't write the model there", [problem])
    return path


def free_bytes(path: Path) -> int:
    """Free disk space where `path` is or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


@contextmanager
def staged(out: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Gives an empty folder to write into; it becomes `out` when the block ends well, else it is removed.

    Raises:
        UserError: the place is taken, read-only or full. Nothing is left behind.
    """
    path = check_target(out, overwrite=overwrite)
    made: list[Path] = []  # parents made here, to be taken back on failure
    temporary: Path | None = None
    done = False
    try:
        made = _make_parents(path.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        yield temporary
        _move(temporary, path)
        done = True
    except (OSError, SafetensorError) as error:
        raise UserError(f"can't write {path}; nothing was left there", [_explain(error, path)]) from error
    finally:
        if not done:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            for parent in reversed(made):
                shutil.rmtree(parent, ignore_errors=True)


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


def _move(temporary: Path, path: Path) -> None:
    """Into place; what stood there is only removed once the new one is."""
    if path.is_dir() and os.listdir(path):
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
        os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(temporary, path)


def _explain(error: BaseException, path: Path) -> Problem:
    text = getattr(error, "strerror", None) or str(error)
    hint = ""
    if "No space left" in str(error):
        text, hint = "the disk is full", f"{format_bytes(free_bytes(path))} are free there"
    elif isinstance(error, PermissionError) or "Read-only" in text:
        hint = "choose a folder that you may write to"
    return Problem("output", str(path), text, hint)
