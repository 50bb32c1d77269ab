"""Maintainer's script: prose of Python's HTML documentation -> `python_docs.jsonl.gz` and its licence.

    apt-get download python3.11-doc && dpkg -x python3.11-doc_*.deb unpacked
    python -m studies.data.builtin.build unpacked/usr/share/doc/python3.11/html

Only the standard library is used. The output depends on the input alone: same pages, same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from studies.data.builtin.pages import Block, read_page
from studies.data.builtin.prose import clean, is_prose, trim_lead_in

FOLDERS = (
    *("c-api", "distributing", "distutils", "extending", "faq", "howto", "install", "installing"),
    *("library", "reference", "tutorial", "using", "whatsnew"),
)
SINGLE_PAGES = ("glossary.html", "bugs.html")
# Generated lists (every deprecated name, every licence, contents) contain few sentences.
NOT_PROSE = ("contents", "genindex", "py-modindex", "search", "index", "license", "copyright", "stable")

MIN_DOCUMENT = 500  # characters: shorter sections are joined to the one before
MAX_DOCUMENT = 8_000  # characters: longer sections are cut between paragraphs


def page_paths(root: Path) -> Iterator[Path]:
    """Yield the pages that hold prose, in a fixed order."""
    for name in SINGLE_PAGES:
        yield root / name
    for folder in FOLDERS:
        for path in sorted((root / folder).glob("*.html")):
            if path.stem not in NOT_PROSE:
                yield path


def paragraphs(blocks: list[Block]) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of every heading and every paragraph of English; kind is "heading" or "text"."""
    for position, block in enumerate(blocks):
        text = clean(block.text)
        if block.kind == "heading":
            yield "heading", re.sub(r"^\d+(?:\.\d+)*\. ", "", text)
            continue
        following = blocks[position + 1].kind if position + 1 < len(blocks) else "end"
        if text.endswith(":") and not (following == "item" and is_prose(clean(blocks[position + 1].text))):
            text = trim_lead_in(text)  # it introduces code or a table that was dropped
        if is_prose(text):
            yield "text", text


def documents(root: Path) -> Iterator[dict[str, str]]:
    """Yield one document per section, its heading first; repeated paragraphs are left out."""
    seen: set[str] = set()
    for path in page_paths(root):
        page = path.relative_to(root).with_suffix("").as_posix()
        sections: list[tuple[str, list[str]]] = []
        for kind, text in paragraphs(read_page(path.read_text(encoding="utf-8"))):
            if kind == "heading":
                if not sections or sections[-1][1]:
                    sections.append((text, []))
                else:
                    sections[-1] = (text, [])
                continue
            fingerprint = re.sub(r"\W+", " ", text).lower()
            if fingerprint not in seen and sections:
                seen.add(fingerprint)
                sections[-1][1].append(text)
        for number, (title, body) in enumerate(join_and_cut(sections), start=1):
            yield {"id": f"{page}#{number}", "title": title, "text": "\n".join([title, *body])}


def join_and_cut(sections: list[tuple[str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
    """Yield sections of similar length: short ones are joined to the previous one, long ones are cut."""
    joined: list[tuple[str, list[str]]] = []
    for title, body in sections:
        if not body:
            continue
        if joined and (_length(body) < MIN_DOCUMENT or _length(joined[-1][1]) < MIN_DOCUMENT):
            joined[-1][1].extend([title, *body])
        else:
            joined.append((title, list(body)))
    for title, body in joined:
        if _length(body) < MIN_DOCUMENT // 2:
            continue
        while body:
            size = count = 0
            while count < len(body) and (size < MAX_DOCUMENT or _length(body[count:]) < MIN_DOCUMENT):
                size += len(body[count])
                count += 1
            yield title, body[:count]
            body = body[count:]


def _length(body: list[str]) -> int:
    return sum(map(len, body))


def licence(root: Path) -> str:
    """Return the documentation's licence from its source, without the licences of incorporated software."""
    source = (root / "_sources" / "license.rst.txt").read_text(encoding="utf-8")
    terms = source[: source.index("Licenses and Acknowledgements for Incorporated Software")]
    terms = re.sub(r"^\.\. .*\n(?:[ \t]+.*\n)*", "", terms, flags=re.MULTILINE)
    return terms.replace("|release|", "3.11.2").strip() + "\n"


def main() -> None:
    """Write the corpus and its licence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("html", type=Path, help="folder of the unpacked HTML documentation")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()

    # Shuffled, so that any prefix is a random sample of all pages; by the hash of the id, since the hash of
    # the text already chooses the held-out documents.
    shuffled = sorted(documents(options.html), key=lambda d: hashlib.sha256(d["id"].encode()).digest())
    lines = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in shuffled)
    packed = gzip.compress(lines.encode(), compresslevel=9, mtime=0)
    (options.out / "python_docs.jsonl.gz").write_bytes(packed)
    (options.out / "LICENSE.txt").write_text(licence(options.html), encoding="utf-8")
    size = sum(len(document["text"].encode()) for document in shuffled)
    print(f"{len(shuffled)} documents, {size:,} bytes of text, {len(packed):,} bytes packed")


if __name__ == "__main__":
    main()
