"""The project speaks its field's English: identifiers that say what they hold, docstrings that are sentences
and leave out no public function or class, "per" in units, and no phrases that only this project used."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("surgery", "search_spaces", "studies", "nas_cli")
# Said of anything, and so of nothing: name what it is (result, matches, device, column, rung, text, ...).
VAGUE = frozenset({"found", "told", "place", "places", "spend", "alike"})
# First words that make a docstring a fragment. Google style: a verb for functions, a noun phrase for classes.
FRAGMENTS = re.compile(
    r"(What|Whether|Of|Where|How|As|Who|Whose|Which|That|Whatever|Everything that|Makes? sure)\b"
)
_AMOUNTS = (
    "nats?|bits?|bytes?|ms|milliseconds?|seconds?|minutes?|hours?|tokens?|FLOPs?|trials?|steps?|parameters|"
    "losses|numbers?|rows?|lines?|columns?|entries|values?|runs?|points?|files?|learning rate|GiB|MiB|kB"
)
_UNITS = (
    "token|byte|trial|second|minute|hour|day|seed|field|layer|head|step|parameter|GPU|worker|process|sequence|"
    "batch|pass|projection|channel|run|study|row|rung|architecture|objective|metric|sample|draw|call|command"
)
A_FOR_PER = re.compile(rf"\b({_AMOUNTS}) an? ({_UNITS})\b")
PHRASES = re.compile(
    r"\b(goes on|go on|going on|went on|gone on|puts? back|put it back|putting back|mend(s|ed|ing|able)?|"
    r"(is|are|was|were|be|been|being) told|nobody|whoever|how manyth|no use to|used up)\b",
    re.IGNORECASE,
)


def vague_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        else:
            continue
        if name.strip("_") in VAGUE:
            yield node.lineno, f"identifier `{name}`"


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def undocumented(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Public functions, classes and methods without a docstring; not what is defined inside a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                yield node.lineno, f"no docstring: `{node.name}`"
            if not isinstance(node, ast.ClassDef):
                continue
        yield from undocumented(node)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Comments, and the literal parts of all strings, docstrings among them."""
    for item in tokenize.generate_tokens(io.StringIO(text).readline):
        if item.type == tokenize.COMMENT or tokenize.tok_name[item.type] in ("STRING", "FSTRING_MIDDLE"):
            for offset, line in enumerate(item.string.splitlines()):
                yield item.start[0] + offset, line


def offences(text: str) -> list[tuple[int, str]]:
    tree = ast.parse(text)
    result = [*vague_names(tree), *undocumented(tree)]
    for line, doc in docstrings(tree):
        if match := FRAGMENTS.match(doc):
            result.append((line, f"docstring opens with {match[0]!r}"))
    for line, words in prose(text):
        for pattern in (A_FOR_PER, PHRASES):
            result += [(line, repr(match[0])) for match in pattern.finditer(words)]
    return sorted(result)


@pytest.mark.parametrize("room", ROOMS)
def test_the_words_of_a_room(room: str) -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, what in offences(path.read_text(encoding="utf-8"))
    ] == []


def test_the_words_of_the_tests() -> None:
    result = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines = [line for line, doc in docstrings(tree) if FRAGMENTS.match(doc)]
        lines += [line for line, _ in vague_names(tree)]
        result += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
    assert result == []


def test_the_words_of_the_documents() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for pattern in (A_FOR_PER, PHRASES)
        for match in pattern.finditer(line)
    ] == []


def test_the_lint_sees_what_it_should() -> None:
    text = (
        'def f(place):\n    """Whether it is."""\n    found = 1  # nats a token\n    x = "put back"\n'
        'class C:\n    """A place for everything."""\n    def g(self): ...\n    def _h(self): ...\n'
    )
    assert [what for _, what in offences(text)] == [
        "identifier `place`", "docstring opens with 'Whether'", "'nats a token'", "identifier `found`",
        "'put back'", "no docstring: `g`",
    ]  # fmt: skip
