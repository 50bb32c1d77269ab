"""The text of a journal: one JSON object per line, chained by checksums, in atomic batches.

Each line ends with `"chain"`, the CRC-32 of the line before it and of its own text, so that a line that was
edited, moved, duplicated or removed is detected where it happened. All lines of a batch but the last have
`"left"`, the number of lines of the batch that follow. Optuna's own reader ignores both keys. Lines without
`"chain"` (of an older version, or written by another tool) are accepted as they are.

Why not Optuna's lines: they have no checksums and no batches.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple
from zlib import crc32

from surgery.config.problems import Problem, UserError

CHAIN, LEFT = "chain", "left"
_END = re.compile(rb'(?:,"left":(\d{1,9}))?,"chain":(\d{1,10})\}\n\Z')
BLOCK_BYTES = 16384  # read at once to find the last complete batch of a journal


class Position(NamedTuple):
    """A position between two lines of a journal: lines and bytes before it, and the last line's checksum."""

    lines: int = 0
    offset: int = 0
    checksum: int = 0


START = Position()


def encode(logs: Sequence[dict[str, Any]]) -> list[bytes]:
    """Return entries as text, not chained yet and without line ends."""
    return [json.dumps(log, separators=(",", ":")).encode() for log in logs]


def chain(texts: Sequence[bytes], checksum: int) -> bytes:
    """Return the lines of a batch that follow a line with this checksum."""
    lines = []
    for left, text in zip(range(len(texts) - 1, -1, -1), texts, strict=True):
        start = text[:-1] + (b',"left":%d' % left if left else b"")
        line = b'%b,"chain":%d}\n' % (start, crc32(start, checksum))
        checksum = crc32(line)
        lines.append(line)
    return b"".join(lines)


def read(path: Path, start: Position = START) -> Iterator[tuple[Position, list[dict[str, Any]]]]:
    """Yield batches from a position on, each with the position after it, up to the last complete one.

    Raises:
        UserError: a line is damaged.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < start.offset:
            rule = f"was replaced while it was in use: it has {size} bytes, {start.offset} were read before"
            raise UserError("the study's journal changed", [Problem(str(path), None, rule, "run it again")])
        file.seek(start.offset)
        position, batch, expected = start, list[dict[str, Any]](), 0
        for line in file:
            if not line.endswith(b"\n"):
                return  # it is being written, or its writer was killed
            entry, left = _decode(path, position, line)
            if batch and left != expected - 1:
                raise damaged(path, position.lines, "is not the line of its batch that comes here")
            batch.append(entry)
            expected = left
            position = Position(position.lines + 1, position.offset + len(line), crc32(line))
            if left == 0:
                yield position, batch
                batch = []


def _decode(path: Path, position: Position, line: bytes) -> tuple[dict[str, Any], int]:
    """Return the entry of a line, and how many lines of its batch follow."""
    end = _END.search(line)
    if end is not None and crc32(line[: end.start(2) - len(b',"chain":')], position.checksum) != int(end[2]):
        rule = "was changed, or does not follow the line before it"
        raise damaged(path, position.lines, f"{rule} (edited, moved, duplicated or lost lines)")
    try:
        entry = json.loads(line)
        if b"\\u" in line:
            json.dumps(entry, ensure_ascii=False).encode()  # half of a surrogate pair can't be printed
    except UnicodeError as error:
        raise damaged(path, position.lines, f"is not UTF-8: {error}") from error
    except RecursionError as error:
        raise damaged(path, position.lines, "is nested too deeply") from error
    except ValueError as error:
        raise damaged(path, position.lines, f"is not JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(entry, dict):
        raise damaged(path, position.lines, f"must be an object, not {type(entry).__name__}")
    return entry, int(end[1] or 0) if end is not None else 0


def damaged(path: Path, index: int, rule: str) -> UserError:
    """Return the error for a damaged line, which has `index` lines before it."""
    hint = "nas doctor STUDY --repair keeps all lines before it, and the damaged file next to the new one"
    return UserError("the study's journal is damaged", [Problem(str(path), None, rule, hint, index + 1)])


def trim(file: IO[bytes]) -> int:
    """Cut off an incomplete line or batch that a killed writer left at the end. The file must be locked.

    Returns:
        The checksum of the last line.
    """
    size, block = file.seek(0, os.SEEK_END), BLOCK_BYTES
    while True:
        start = max(0, size - block)
        file.seek(start)
        text = file.read(size - start)
        end = text.rfind(b"\n") + 1
        lines = [line + b"\n" for line in text.split(b"\n")[:-1]]
        known = lines if start == 0 else lines[1:]  # the first one may begin before the block
        while known and (left := _left(known[-1])):
            end -= len(known.pop())
            if known and _left(known[-1]) != left + 1:
                break  # the batch began there
        if known or start == 0:
            if start + end < size:
                file.truncate(start + end)
            return crc32(known[-1]) if known else 0
        block *= 2


def _left(line: bytes) -> int:
    end = _END.search(line)
    return int(end[1] or 0) if end is not None else 0
