"""YAML with line numbers, so that an error can say where it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from surgery.problems import Problem, UserError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """A parsed YAML document and the line of each key in it."""

    name: str
    data: Any
    lines: dict[KeyPath, int]
    text: str

    def line(self, path: KeyPath) -> int | None:
        """Line (from 1) of the key at `path`, or of its nearest parent that has one."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


class _Loader(yaml.SafeLoader):
    """`yaml.safe_load`, with 1e-3 read as a number: YAML 1.1 would make it a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*[eE][-+]?\d+"), list("-+0123456789")
)


def load_yaml(source: str | Path, *, text: str | None = None) -> Source:
    """Reads a YAML file, or `text` given beside a name for messages.

    Raises:
        UserError: unreadable file, invalid YAML, or a key written twice.
    """
    name = str(source)
    if text is None:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"can't read {name}", [Problem("file", name, reason)]) from error
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        duplicates: list[Problem] = []
        if node is not None:
            _walk(node, (), lines, duplicates, set())
        if duplicates:
            raise UserError(f"{name} is not valid", duplicates)
        data = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else None
        problem = Problem("YAML", None, error.problem or "can't be parsed", error.context or "", line)
        raise UserError(f"{name} is not valid YAML", [problem]) from error
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not valid YAML", [Problem("YAML", None, str(error))]) from error
    finally:
        loader.dispose()
    return Source(name, data, lines, text)


def _walk(
    node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], duplicates: list[Problem], seen: set[int]
) -> None:
    if id(node) in seen:  # an alias: its keys stand at the anchor
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines and str(key.value) != "<<":
                duplicates.append(
                    Problem(".".join(map(str, inner)), None, f"is written twice (also in line {lines[inner]})",
                            "keep one", line)
                )  # fmt: skip
            lines[inner] = line
            _walk(value, inner, lines, duplicates, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), lines, duplicates, seen)
