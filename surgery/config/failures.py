"""One-line messages for failures of the machine: no memory, no space, no such file, no file handles.

Mistakes in a user's input are UserErrors, raised where the input is read. This module covers failures that
can occur at any line. Any other exception is a bug.
"""

from __future__ import annotations

import errno
import os

from surgery.config.problems import UserError

TRACEBACK = "NAS_TRACEBACK"  # environment variable: show where a failure came from

_HINTS = {
    errno.EMFILE: "raise the limit of this shell: ulimit -n 65536",
    errno.ENFILE: "the whole machine has no file handles left",
    errno.ENOSPC: "free some space, or name a folder on another disk",
    errno.EDQUOT: "free some of your quota, or name a folder on another disk",
    errno.EAGAIN: "this machine allows no more processes or threads: ulimit -u",
    errno.ENOMEM: "free some memory, or use smaller sizes",
    errno.ENAMETOOLONG: "a name has at most 255 bytes",
    errno.EACCES: "name a file or folder that you may read and write",
    errno.EROFS: "name a folder that you may write to",
}
# avoidable with another command line: exit code 2
_USER_ERRORS = {
    errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.ELOOP,
}  # fmt: skip
# PyTorch raises plain RuntimeErrors for these on a CPU
_NO_MEMORY = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
_NO_THREADS = "can't start new thread"


def explain(error: BaseException) -> tuple[str, int] | None:
    """Return (one line, exit code) for a failure of the machine or its files; None for anything else."""
    if isinstance(error, OSError) and error.errno is not None:
        name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        code = 2 if error.errno in _USER_ERRORS else 1
        return _line(f"{name}{error.strerror or error}", _HINTS.get(error.errno, "")), code
    text = " ".join(str(error).split())
    if _is_out_of_memory(error, text):
        return _line("out of memory" + (f": {text}" if text else ""), _HINTS[errno.ENOMEM]), 1
    if isinstance(error, RuntimeError) and _NO_THREADS in text:
        return _line(text, _HINTS[errno.EAGAIN]), 1
    return None


def describe_bug(error: BaseException) -> str:
    """Return the line for an unexpected exception."""
    text = " ".join(str(error).split())[:300]
    return (
        f"this is a bug in nas: {type(error).__name__}{': ' if text else ''}{text} "
        f"(rerun with {TRACEBACK}=1 to see where)"
    )


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, MemoryError):
        return True
    # torch.OutOfMemoryError is a RuntimeError; torch is not imported here
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or any(part in text for part in _NO_MEMORY)
    )


def _line(text: str, hint: str) -> str:
    return f"{text} ({hint})" if hint else text


def report(error: Exception) -> tuple[str, int]:
    """Return (text, exit code) for the exception that ended a process.

    Raises:
        Exception: `error` itself, if the user asked for tracebacks.
    """
    if os.environ.get(TRACEBACK):
        raise error
    if isinstance(error, UserError):
        return f"error: {error}", 2
    line, code = explain(error) or (describe_bug(error), 1)
    return f"error: {line}", code
