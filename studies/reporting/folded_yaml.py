"""YAML with short lines: pages show it in a box that does not wrap."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

import yaml

from surgery.architecture import Architecture

WIDTH = 88  # columns: what Optuna Dashboard has room for in a window of 1,400 pixels
_BREAK = 64  # columns after which YAML of our own is broken: behind the entry that crosses it
_QUOTED = re.compile(r"'(?:[^']|'')*'" r'|"(?:[^"\\]|\\.)*"')
_COMMENT = re.compile(r"(^|\s)#")


def architecture_yaml(architecture: Architecture) -> str:
    """Return the YAML of an architecture with short lines."""
    return folded(architecture.to_yaml(width=_BREAK).strip())


def folded(text: str, width: int = WIDTH) -> str:
    """Return YAML that loads equal and whose lines have at most `width` columns, where that can be done.

    Flow collections are broken after commas, and comments behind a line are moved above it.
    """
    result = "\n".join(part for line in text.split("\n") for part in _folded(line, width))
    try:
        return result if yaml.safe_load(result) == yaml.safe_load(text) else text
    except yaml.YAMLError:  # lines inside a block of text are not to be broken
        return text


def _folded(line: str, width: int) -> Iterator[str]:
    if len(line) <= width:
        yield line
        return
    indent = line[: len(line) - len(line.lstrip())]
    plain = _QUOTED.sub(lambda match: "x" * len(match[0]), line)
    if match := _COMMENT.search(plain):
        comment = line[match.end() :].strip()
        prefix = f"{indent}# "
        yield from textwrap.wrap(
            comment, width, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
        line, plain = line[: match.start()].rstrip(), plain[: match.start()].rstrip()
        if not line:
            return
    while len(line) > width:
        at = plain.rfind(", ", 0, width - 1)
        if at < len(indent):
            break
        yield line[: at + 1]
        line, plain = (f"{indent}    {rest[at + 2 :]}" for rest in (line, plain))
    yield line
