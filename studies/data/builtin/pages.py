"""Parsing a Sphinx HTML page into headings, paragraphs and list items, without code, tables or markup."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser

VOID = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr",
})  # fmt: skip
DROPPED_TAGS = frozenset({
    "pre", "table", "nav", "script", "style", "svg", "math", "aside", "figure", "sup", "footer",
})  # fmt: skip
# Signatures, permalinks, labels of version notes, source links, footnotes: page furniture, not prose.
DROPPED_CLASSES = frozenset({
    "sig", "headerlink", "highlight", "footnote", "citation", "field-list", "sphinxsidebar", "related",
    "rubric", "admonition-title", "topic-title", "toctree-wrapper", "math", "sidebar-title",
    "availability", "footnote-reference", "impl-detail-title", "caption", "versionmodified",
    "deprecated-removed", "seealso", "contents", "local",
})  # fmt: skip
HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5"})


@dataclass(frozen=True)
class Block:
    """A block of a page, with its raw text."""

    kind: str  # "heading", "text", "item" (inside a list), "code" (something was dropped here)
    text: str


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._stack: list[tuple[str, bool]] = []  # (tag, whether it starts a dropped subtree)
        self._dropping = 0
        self._sections = 0
        self._lists = 0
        self._kind = ""
        self._parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            if tag == "br":
                self._parts.append(" ")
            return
        classes = frozenset((dict(attrs).get("class") or "").split())
        # Inline code is part of its sentence, whatever its classes (`sig-inline`, `highlight`).
        dropped = tag in DROPPED_TAGS or (tag != "code" and bool(classes & DROPPED_CLASSES))
        self._stack.append((tag, dropped))
        self._dropping += dropped
        self._sections += tag == "section"
        self._lists += tag in ("ul", "ol")
        if dropped and tag in ("pre", "table", "div") and not self._kind:
            self.blocks.append(Block("code", ""))
        if self._dropping or not self._sections:
            return
        if tag in HEADINGS or tag == "p":
            self._kind = "heading" if tag in HEADINGS else "item" if self._lists else "text"
            self._parts = []

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or not any(open_tag == tag for open_tag, _ in self._stack):
            return
        while self._stack:
            closed, dropped = self._stack.pop()
            self._dropping -= dropped
            self._sections -= closed == "section"
            self._lists -= closed in ("ul", "ol")
            if self._kind and (closed == "p" or closed in HEADINGS) and not self._dropping:
                self.blocks.append(Block(self._kind, "".join(self._parts)))
                self._kind = ""
            if closed == tag:
                return

    def handle_data(self, data: str) -> None:
        if self._kind and not self._dropping:
            self._parts.append(data)


def read_page(html: str) -> list[Block]:
    """Return the blocks of a page's sections in reading order, with their whitespace unchanged."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.blocks
