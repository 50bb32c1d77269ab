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
    """`yaml.safe_load`, but with numbers as people write them.

    YAML 1.1 reads `1e-3` and `1.5e3` as text, and `1:2`, which selects layers here, as 62 in base 60.
    """


_SIGNED = list("-+0123456789")
_RESOLVERS = (
    ("int", re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][\d_]*)"), _SIGNED),
    ("float", re.compile(r"[-+]?\d[\d_]*(?:\.[\d_]*)?[eE][-+]?\d+|[-+]?\d[\d_]*\.[\d_]*"), _SIGNED),
    ("float", re.compile(r"[-+]?\.\d[\d_]*(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)"), list("-+.")),
    ("float", re.compile(r"\.(?:nan|NaN|NAN)"), ["."]),
)
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _first in _RESOLVERS:
    # PyYAML matches from the start only, so that each pattern must say where it ends
    _whole = re.compile(f"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _whole, _first)


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
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
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
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a value such as the date 2026-13-45
        raise UserError(f"{name} is not valid YAML", [Problem("YAML", None, str(error))]) from error
    except RecursionError as error:
        raise UserError(f"{name} is not valid YAML", [Problem("YAML", None, "is nested too deep")]) from error
    finally:
        if loader is not None:
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
                rule = f"is written twice (also in line {lines[inner]})"
                duplicates.append(Problem(".".join(map(str, inner)), None, rule, "keep one", line))
            lines[inner] = line
            _walk(value, inner, lines, duplicates, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), lines, duplicates, seen)
