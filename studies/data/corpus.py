"""A corpus: documents in batches, from a cursor on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from surgery.config.problems import Problem, UserError, nearest

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


def _refused(spec: str, rule: str, hint: str) -> UserError:
    return UserError("This corpus can't be used", [Problem("data", spec, rule, hint)])


def text_of(row: dict[str, Any], column: str, where: str) -> str:
    """The text of a row; a null is an empty document.

    Raises:
        UserError: no such column, or it holds no text.
    """
    if column not in row:
        raise missing_column(column, list(row), where)
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        rule = f"column {column!r} must hold text, not {type(value).__name__}"
        raise UserError(
            "This corpus can't be used", [Problem("data", where, rule, "?column=NAME names another")]
        )
    return value


def missing_column(column: str, found: list[str], where: str) -> UserError:
    hint = nearest(column, found) or "?column=NAME behind the corpus names another"
    rule = f"has no column {column!r}; it has {', '.join(map(str, found)) or 'none'}"
    return UserError("This corpus can't be used", [Problem("data", where, rule, hint)])
