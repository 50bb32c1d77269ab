"""The text that models are evaluated on: held-out documents or a whole file, as tokens and in windows."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.data import TextTokenizer, TokenData, open_corpus
from studies.data.corpora import split_column
from studies.data.corpus import Corpus
from studies.data.prepared import is_prepared
from studies.data.request import default_val_fraction, is_held_out
from studies.evaluation.model_folder import Checkpoint
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError

DOCUMENTS = 64  # tokenized at once
TABLES = (
    ".jsonl",
    ".ndjson",
    ".parquet",
    ".jsonl.gz",
    ".ndjson.gz",
)  # files of documents; any other file is one text


@dataclass(frozen=True)
class Text:
    """Documents to measure on. In a `whole` text every byte counts, the first token included."""

    name: str
    documents: Iterator[str]
    whole: bool


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text: documents one after the other, each with its end-of-text token.

    Attributes:
        name: of the text.
        ids: token ids.
        bos: the special token that begins every window; None: the token before a window is its context.
        widths: bytes of the text per token; None if they are not known.
        whole: whether the last window may be shorter than the others.
    """

    name: str
    ids: NDArray[np.int64]
    bos: int | None = None
    widths: NDArray[np.int64] | None = None
    whole: bool = False

    @property
    def lead(self) -> int:
        """Tokens at the beginning that are only context."""
        return 0 if self.bos is not None else 1

    def targets(self, seq_len: int, max_tokens: int | None) -> int:
        """Return the number of predicted tokens in windows of `seq_len`, at most `max_tokens`.

        Raises:
            UserError: too little text.
        """
        targets = len(self.ids) - self.lead
        if max_tokens is not None:
            targets = min(targets, max(1, max_tokens // seq_len) * seq_len)
        if not self.whole:
            targets = targets // seq_len * seq_len
        if targets < 1:
            rule = f"has {len(self.ids)} tokens, at least {seq_len + 1} are needed"
            raise UserError(
                "too little text", [Problem("data", self.name, rule, "more text, or shorter sequences")]
            )
        return targets

    def windows(self, seq_len: int, targets: int, rows: int) -> Iterator[NDArray[np.int64]]:
        """Yield batches (at most `rows`, tokens + 1) of windows that do not overlap, context included."""
        starts = range(0, targets, seq_len)
        for first in range(0, len(starts), rows):
            batch = [
                self._window(start, min(start + seq_len, targets)) for start in starts[first : first + rows]
            ]
            for length in sorted({len(row) for row in batch}, reverse=True):  # the last may be shorter
                yield np.stack([row for row in batch if len(row) == length])

    def _window(self, start: int, stop: int) -> NDArray[np.int64]:
        if self.bos is None:
            return self.ids[start : stop + self.lead]
        return np.concatenate([np.array([self.bos], dtype=np.int64), self.ids[start:stop]])


def read_text(data: str) -> Text:
    """Return the held-out documents of a corpus or prepared folder, or all of a plain file.

    Raises:
        UserError: no such text.
    """
    if is_prepared(data):
        prepared = TokenData.open(expand(data))
        return Text(f"held-out text of {data}", _decoded(prepared), whole=False)
    file = expand(split_column(data)[0])
    if os.path.isfile(file) and not file.name.lower().endswith(TABLES):
        return Text(f"all of {data}", iter([_whole(file)]), whole=True)
    corpus = open_corpus(data)
    if os.path.isfile(file):
        return Text(f"all of {data}", corpus.texts(), whole=True)
    return Text(f"held-out text of {corpus.spec}", _held_out(corpus), whole=False)


def tokenize(checkpoint: Checkpoint, text: Text, enough: int | None) -> Tokens:
    """Tokenize a text by the model's own tokenizer, up to about `enough` tokens (None: all).

    The widths of the tokens are exactly the bytes that they spell; special tokens have none.

    Raises:
        UserError: the tokenizer has no end-of-text token.
    """
    tokenizer = checkpoint.tokenizer
    if tokenizer.eos_token is None:
        problem = Problem("tokenizer", str(checkpoint.folder), "has no end-of-text token")
        raise UserError(f"{checkpoint.name}: can't be used", [problem])
    encoder = TextTokenizer(tokenizer.backend_tokenizer, str(tokenizer.eos_token))
    bos = beginning(tokenizer)
    parts: list[NDArray[np.int64]] = []
    widths: list[NDArray[np.int64]] = []
    if text.whole and bos is None:
        parts.append(np.array([encoder.eos_id]))  # a text follows the end of another one
        widths.append(np.array([0]))
    count = 0
    for group in _groups(text.documents, DOCUMENTS):
        for ids, spelled in encoder.encode_with_bytes(group):
            parts.append(np.append(ids, encoder.eos_id))
            widths.append(np.append(spelled, 0))
            count += len(ids) + 1
        if enough is not None and count > enough:
            break
    if text.whole and count:
        parts[-1], widths[-1] = parts[-1][:-1], widths[-1][:-1]  # the text need not end here
    nothing = [np.zeros(0, dtype=np.int64)]
    return Tokens(
        text.name, np.concatenate(parts or nothing), bos, np.concatenate(widths or nothing), text.whole
    )


def beginning(tokenizer: Any) -> int | None:
    """Return the special token with which the tokenizer begins texts; None if it begins them with none."""
    ids = tokenizer("", add_special_tokens=True)["input_ids"]
    return int(ids[0]) if ids and ids[0] != tokenizer.eos_token_id else None


def _groups(documents: Iterator[str], size: int) -> Iterator[list[str]]:
    group: list[str] = []
    for document in documents:
        group.append(document)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _whole(file: Path) -> str:
    """Return the text of a file, gzipped or not, unchanged.

    Raises:
        UserError: unreadable, or not UTF-8.
    """
    try:
        raw = file.read_bytes()
        return (gzip.decompress(raw) if file.name.lower().endswith(".gz") else raw).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"can't be read: {error}"
        raise UserError("This text can't be used", [Problem("data", str(file), reason)]) from error


def _held_out(corpus: Corpus) -> Iterator[str]:
    """Yield the documents that `prepare` would hold out."""
    fraction = default_val_fraction(corpus)
    return (text for text in corpus.texts() if is_held_out(text, fraction))


def _decoded(data: TokenData) -> Iterator[str]:
    """Yield the held-out documents of prepared data, decoded for models with another tokenizer."""
    tokenizer = TextTokenizer.open(data.tokenizer_dir)
    tokens = np.asarray(data.tokens("val")[:])
    for document in np.split(tokens, np.flatnonzero(tokens == tokenizer.eos_id) + 1):
        if len(document) > 1:
            yield tokenizer.decode(document[:-1] if document[-1] == tokenizer.eos_id else document)
