"""Corpora: documents in batches, readable from any cursor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from surgery.config.problems import Problem, UserError, nearest

Cursor = dict[str, Any]  # a position in a corpus, as JSON; {} is the beginning
BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class Batch:
    """Consecutive documents and the position of the first."""

    cursor: Cursor
    texts: list[str]

    def cursor_at(self, index: int) -> Cursor:
        """Return the position of document `index` of this batch; for its length, of the next document."""
        return {**self.cursor, "skip": self.cursor.get("skip", 0) + index}


class Corpus(ABC):
    """Documents in a fixed order that can be read again from any position.

    Attributes:
        spec: the full spec.
        name: short, and usable as a folder name.
        source, licence: origin and terms of the text, for `meta.json`.
        column: of tables, the column that holds the text.
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
        """Return a fingerprint that changes with the corpus, as far as visible without reading it all."""

    @abstractmethod
    def text_bytes(self) -> int | None:
        """Return the approximate bytes of text; None if unknown without reading it all."""

    @abstractmethod
    def _open(self, cursor: Cursor) -> tuple[Iterator[str], Callable[[], Cursor]]:
        """Return raw documents from a position on, and a function that returns the position of the next."""

    def batches(self, cursor: Cursor | None = None) -> Iterator[Batch]:
        """Yield documents from `cursor` on, some hundreds at a time, blank ones included.

        Raises:
            UserError: the corpus can't be read; raised when reading reaches the fault.
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
        """Yield all documents that are not blank, cleaned by `clean_text`."""
        for batch in self.batches():
            for text in map(clean_text, batch.texts):
                if text:
                    yield text


def clean_text(text: str) -> str:
    """Strip whitespace at the ends, and replace lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    text = text.strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _refused(spec: str, rule: str, hint: str) -> UserError:
    return UserError("This corpus can't be used", [Problem("data", spec, rule, hint)])


def text_of(row: dict[str, Any], column: str, where: str) -> str:
    """Return the text of a row; null is an empty document.

    Args:
        where: file and line or row, for the error.

    Raises:
        UserError: the column is missing or holds no text.
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


def missing_column(column: str, columns: list[str], where: str) -> UserError:
    """Return the error of a table without the column."""
    hint = nearest(column, columns) or "?column=NAME after the corpus names another"
    rule = f"has no column {column!r}; it has {', '.join(map(str, columns)) or 'none'}"
    return UserError("This corpus can't be used", [Problem("data", where, rule, hint)])
