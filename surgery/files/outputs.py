"""Output files named by a user: written atomically, and never over a file that nas did not write."""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.files.atomic import replacing

MARK = "written by nas"  # in every picture, page and architecture file
MOST_BYTES = 2**26  # larger files are not read, and count as foreign
_SIGNED = re.compile(rb"# written by nas ([0-9a-f]{16})\n\Z")
_TABLE = re.compile(rb"(\xef\xbb\xbf)?trial,baseline,hash,architecture,[^\r\n]*,runs,p_front[^\r\n]*\r?\n")
_DRAWN = (".png", ".svg", ".pdf", ".html")


def signed(text: str) -> str:
    """Return the text with a last line that holds its digest, by which later edits are detected."""
    return f"{text}# {MARK} {_digest(text.encode())}\n"


def check_output(path: Path, option: str, what: str) -> None:
    """Check that `path` is free, or a file that nas wrote.

    Args:
        path: output file.
        option: command-line option that named it, for the message.
        what: kind of file, for the message.

    Raises:
        UserError: the file exists and nas did not write it, or it was changed since.
    """
    path = expand(path)
    try:
        is_foreign = path.is_file() and not _is_ours(path)
    except OSError as error:
        raise _refused(
            path, option, what, error.strerror or str(error), "name a file you may write"
        ) from error
    if is_foreign:
        rule = "exists, and nas did not write it or it was changed since; it is left as it is"
        raise _refused(path, option, what, rule, "name another file, or move it away")


@contextmanager
def output(path: Path, option: str, what: str) -> Iterator[Path]:
    """Yield a temporary path, whose file replaces `path` if the block succeeds.

    Raises:
        UserError: the file can't be written, or `check_output` refuses it.
    """
    path = expand(path)
    check_output(path, option, what)
    try:
        if path.exists() and not path.is_file():  # such as /dev/stdout, or a folder, which the writer refuses
            yield path
            return
        target = path.resolve()  # the target of a link is replaced, not the link
        with replacing(target, target.with_name(f".{secrets.token_hex(6)}{target.suffix}")) as temporary:
            yield temporary
            if target.exists():
                shutil.copymode(target, temporary)
    except OSError as error:
        raise _refused(
            path, option, what, error.strerror or str(error), "name a file you may write"
        ) from error


def _is_ours(path: Path) -> bool:
    if path.stat().st_size > MOST_BYTES:
        return False
    content = path.read_bytes()
    if not content or _TABLE.match(content):
        return True
    if path.suffix.lower() in _DRAWN:
        return MARK.encode() in content
    match = _SIGNED.search(content)
    return match is not None and match[1].decode() == _digest(content[: match.start()])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _refused(path: Path, option: str, what: str, rule: str, hint: str) -> UserError:
    return UserError(f"can't write the {what}", [Problem(option, str(path), rule, hint)])
