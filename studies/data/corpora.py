"""What a corpus is and how a spec names one.

| spec | corpus |
|---|---|
| `builtin` | English prose of Python's documentation that ships with the package |
| `fineweb-edu[:CONFIG]` | HuggingFaceFW/fineweb-edu, streamed (config `sample-10BT` by default) |
| `hf:NAME[:CONFIG][@SPLIT]` | any Hugging Face dataset, streamed (split `train` by default) |
| a path | a .jsonl, .parquet or .txt file (also .gz), or a folder of them |

`?column=NAME` behind any of them reads another column than `text`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from surgery.paths import expand
from surgery.problems import Problem, UserError, is_unicode, nearest

FINEWEB_EDU = "HuggingFaceFW/fineweb-edu"
FINEWEB_EDU_CONFIG = "sample-10BT"
NAMED = ("builtin", "fineweb-edu")

Cursor = dict[str, Any]  # a place in a corpus, as JSON; {} is the beginning

BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class Batch:
    """Consecutive documents and the place of the first."""

    cursor: Cursor
    texts: list[str]

    def cursor_at(self, index: int) -> Cursor:
        """The place of the document `index` of this batch (its length: of the one behind it)."""
        return {**self.cursor, "skip": self.cursor.get("skip", 0) + index}


class Corpus(ABC):
    """Documents in a fixed order that can be read again from any place.

    Attributes:
        spec: how the user names it, in full.
        name: short and fit for a folder's name.
        source, licence: where the text is from and its terms, for `meta.json`.
        ignored: files of a folder that are not read.
    """

    spec: str
    name: str
    source: str
    licence: str
    column: str
    ignored: tuple[str, ...] = ()

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the corpus does, as far as that can be seen without reading all of it."""

    @abstractmethod
    def text_bytes(self) -> int | None:
        """About how many bytes of text there are; None where only reading it all would tell."""

    @abstractmethod
    def _open(self, cursor: Cursor) -> tuple[Iterator[str], Callable[[], Cursor]]:
        """The raw documents from a place on, and a function that tells the place of the next one."""

    def batches(self, cursor: Cursor | None = None) -> Iterator[Batch]:
        """Documents from `cursor` on, some hundreds at a time; blank ones included (they have a place too).

        Raises:
            UserError: the corpus can't be read, at the place where that shows.
        """
        cursor = dict(cursor or {})
        documents, position = self._open({key: value for key, value in cursor.items() if key != "skip"})
        for _ in range(cursor.get("skip", 0)):
            if next(documents, None) is None:
                return
        start = cursor or position()
        texts: list[str] = []
        size = 0
        for text in documents:
            texts.append(text)
            size += len(text)
            if len(texts) >= BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
                yield Batch(start, texts)
                start, texts, size = position(), [], 0
        if texts:
            yield Batch(start, texts)

    def texts(self) -> Iterator[str]:
        """All documents that are not blank, mended (see `mend`)."""
        for batch in self.batches():
            for text in map(mend, batch.texts):
                if text:
                    yield text


def mend(text: str) -> str:
    """Without surrounding whitespace; half surrogate pairs, which no UTF-8 can hold, become U+FFFD."""
    text = text.strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def open_corpus(spec: str, column: str | None = None) -> Corpus:
    """The corpus a spec names (see this module's table). Nothing is read or downloaded yet.

    Raises:
        UserError: no such file or name, or a spec that can't be read.
    """
    from studies.data.hub import HubCorpus
    from studies.data.local_files import LocalCorpus, builtin_corpus

    plain, query, named = split_column(spec)
    if query or (not named and spec.endswith("?column=")):
        raise _refused(spec, "only ?column=NAME may follow a corpus", "for example corpus.jsonl?column=body")
    column = column or named or "text"
    if not plain:
        raise _refused(spec, "is empty", f"one of {', '.join(NAMED)}, hf:NAME or a path")
    if plain == "builtin":
        if column != "text":
            raise _refused(spec, "the built-in text has the column 'text' only", "leave the column out")
        return builtin_corpus()
    body, _, split = plain.partition("@")
    head, _, rest = body.partition(":")
    if head == "fineweb-edu":
        config = rest or FINEWEB_EDU_CONFIG
        licence = "ODC-By 1.0; also Common Crawl's terms of use"
        name = f"fineweb-edu-{config}"
        return HubCorpus(FINEWEB_EDU, config, split or "train", column, name=name, licence=licence)
    if head == "hf":
        dataset, _, config = rest.partition(":")
        if not dataset:
            raise _refused(spec, "names no dataset", "hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG@SPLIT")
        return HubCorpus(dataset, config or None, split or "train", column)
    path = expand(plain)
    if not os.path.exists(path):
        guess = nearest(plain, NAMED)
        hint = guess or f"a corpus is {', '.join(NAMED)}, hf:NAME or a path to .jsonl, .parquet or .txt"
        rule = "is a link to nothing" if os.path.islink(path) else "no such file, folder or named corpus"
        raise _refused(spec, rule, hint)
    if not is_unicode(str(path.resolve())):
        raise _refused(str(path), "its path is not UTF-8 text", "rename the file or folder")
    return LocalCorpus(path, column)


def located(spec: str) -> str:
    """Return a corpus, a prepared folder or a tokenizer so that it is the same from any folder.

    A path that exists becomes absolute, without links; every other spec is returned as it is.
    """
    path, _, column = split_column(spec)
    named = path in NAMED or path.partition(":")[0] in ("hf", "fineweb-edu")
    if named or not os.path.exists(expand(path)):
        return spec
    return f"{expand(path).resolve()}{'?column=' if column else ''}{column}"


def split_column(spec: str) -> tuple[str, str, str]:
    """Return (corpus, what follows its `?`, column); a file whose own name holds a `?` is taken whole."""
    if os.path.exists(expand(spec)):
        return spec, "", ""
    plain, mark, column = spec.rpartition("?column=")
    if mark:
        return plain, "", column
    plain, _, query = spec.partition("?")
    return plain, query, ""


def _refused(spec: str, rule: str, hint: str) -> UserError:
    return UserError("This corpus can't be used", [Problem("data", spec, rule, hint)])
