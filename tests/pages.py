"""The README and the pages of docs/ as tests read them: blocks, commands, links, headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(nas [a-z].*)")
_ASSIGNED = re.compile(r"^(?:[A-Z_]+=\S+ )*")


class Block(NamedTuple):
    """A fenced block: its language (`console` blocks are run, `bash` blocks are only parsed) and text."""

    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[Block]:
    """Fenced blocks in these languages, in order; all of them if none is named."""
    result = [Block(*match) for match in _BLOCK.findall(text_of(page))]
    return [block for block in result if not languages or block.language in languages]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _BLOCK.sub("", text_of(page))


def runnable(page: Path) -> list[str]:
    """Commands behind `$ ` in `console` blocks: they work one after the other, in the order of the guides."""
    lines = [line for block in blocks(page, "console") for line in block.text.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def commands(page: Path) -> Iterator[str]:
    """Every `nas ...` that a reader may type, without its comment: of blocks, and of code in a line."""
    for block in blocks(page, "bash", "console", ""):
        for line in block.text.splitlines():
            typed = line.removeprefix("$ ") if line.startswith("$ ") else line
            if (block.language != "" or line.startswith("$ ")) and (match := _COMMAND.fullmatch(typed)):
                yield match[1].split(" #")[0].strip()
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        if match := _COMMAND.fullmatch(span):
            yield match[1]


def resolve(line: str, app: Any) -> tuple[Any, list[str]]:
    """The command that a line means, and the words that are left for it.

    Raises:
        AssertionError: there is no such command.
    """
    words = shlex.split(line)[1:]
    command = app
    while hasattr(command, "commands") and words:
        name = words.pop(0)
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    return command, words


def links(page: Path) -> list[str]:
    """Targets of links and pictures to files of this project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Names of the page's headings as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def headings(page: Path) -> set[str]:
    return set(re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE))
