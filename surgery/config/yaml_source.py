"""YAML with line numbers for error messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from surgery.config.problems import Problem, UserError

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000  # of a file
MAX_VALUES = 50_000  # keys and values of a document, aliases expanded
MAX_DEPTH = 50  # collections inside each other
MAX_DIGITS = 128  # of a number


@dataclass(frozen=True)
class Source:
    """A parsed YAML document and the line of each key in it."""

    name: str
    data: Any
    lines: dict[KeyPath, int]
    text: str

    def line(self, path: KeyPath) -> int | None:
        """Return the line (from 1) of the key at `path`, or of its nearest parent that has one."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


class _Loader(yaml.SafeLoader):
    """`yaml.safe_load` with size limits and YAML 1.2 numbers.

    YAML 1.1 reads `1e-3` and `1.5e3` as text, and `1:2`, which selects layers here, as 62 in base 60.

    A kilobyte of aliases can expand to more values than fit into memory, so values are counted while nodes
    are composed, before anything is built from them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._sizes: dict[int, int] = {}  # id of a complete node -> its number of values

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node within the limits on depth and number of values."""
        mark = self.peek_event().start_mark
        is_alias = self.check_event(yaml.AliasEvent)
        before = self._values
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"is nested more than {MAX_DEPTH} levels deep", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if not is_alias:
            self._values += 1
            self._sizes[id(node)] = self._values - before
        elif id(node) in self._sizes:
            self._values += self._sizes[id(node)]
        else:
            raise ComposerError(None, None, "an alias stands inside its own anchor", mark)
        if self._values > MAX_VALUES:
            raise ComposerError(None, None, f"holds more than {MAX_VALUES:,} values, aliases expanded", mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; one that does not match its tag, such as the date 2026-13-45, is an error."""
        try:
            is_number = isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS
            if is_number and len(node.value) > MAX_DIGITS:
                raise ValueError(f"a number has at most {MAX_DIGITS} digits")
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
            kind = node.tag.rpartition(":")[2]
            reason = f": {error}" if isinstance(error, ValueError) else ""
            rule = f"can't be read as {kind}{reason}"
            raise ConstructorError(None, None, rule, node.start_mark) from error


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
    """Parse a YAML file, or `text`, which messages call `source`.

    Raises:
        UserError: unreadable file, invalid YAML, beyond this module's limits, or a key written twice.
    """
    name = str(source)
    if text is None:
        text = _read(Path(source))
    elif len(text) > MAX_BYTES:
        raise UserError(f"{name} is not valid YAML", [Problem("YAML", None, _TOO_LONG)])
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
    except yaml.YAMLError as error:  # a character that YAML does not allow
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is not valid YAML", [Problem("YAML", None, reason)]) from error
    finally:
        if loader is not None:
            loader.dispose()
    return Source(name, data, lines, text)


_TOO_LONG = f"has more than {MAX_BYTES:,} bytes, which no space and no architecture needs"


def _read(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UserError: unreadable, too long, or not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(_TOO_LONG)
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError("is UTF-16 text; save it as utf-8")
        return data.decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"can't read {path}", [Problem("file", str(path), reason)]) from error


def _walk(
    node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], duplicates: list[Problem], seen: set[int]
) -> None:
    if id(node) in seen:  # an alias: its keys are located at the anchor
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
