"""Loss of any model folder on text: nats/token, perplexity and, comparable between tokenizers, bits/byte."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from studies.data import TextTokenizer, TokenData, open_corpus
from studies.data.corpora import split_column
from studies.data.corpus import Corpus
from studies.data.prepared import is_prepared
from studies.data.request import default_val_fraction, is_held_out
from studies.evaluation.model_folder import Checkpoint, check_tokens
from studies.training.pretrain import RECORD
from surgery.config.json_source import read_object
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError

SEQ_LEN = 512  # tokens of a window
BATCH_LOGITS = 2**26  # logits of a batch
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
class Perplexity:
    """Mean cross-entropy over `tokens` predicted tokens of `bytes` bytes of text."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    seq_len: int
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


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


def measure(
    checkpoint: Checkpoint,
    text: Text,
    *,
    seq_len: int | None = None,
    max_tokens: int | None = None,
    on_tokens: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Measure the cross-entropy in non-overlapping windows of `seq_len` tokens.

    Documents are tokenized by the model's own tokenizer and concatenated, each with its end-of-text token, as
    in training. If the tokenizer begins texts with a special token, so does every window. The bytes are
    exactly those of the predicted tokens; special tokens have none.

    Args:
        seq_len: tokens per window; by default those that `nas train` recorded in the folder, else 512.
        max_tokens: most predicted tokens, in whole windows; None for all.
        on_tokens: called after every batch with (tokens done, total tokens).

    Raises:
        UserError: too little text, or a tokenizer that does not fit the model.
    """
    seq_len = min(seq_len or _trained_length(checkpoint.folder), checkpoint.longest)
    ids, widths, bos = _tokenize(checkpoint, text, None if max_tokens is None else max_tokens + seq_len)
    lead = 0 if bos is not None else 1  # without a special token the first token is only context
    targets = len(ids) - lead
    if max_tokens is not None:
        targets = min(targets, max(1, max_tokens // seq_len) * seq_len)
    if not text.whole:
        targets = targets // seq_len * seq_len
    if targets < 1:
        rule = f"has {max(0, len(ids))} tokens, at least {seq_len + 1} are needed"
        raise UserError(
            "too little text", [Problem("data", text.name, rule, "more text, or a shorter --seq-len")]
        )
    check_tokens(checkpoint, [*np.unique(ids), *([] if bos is None else [bos])])
    vocab_size = checkpoint.rows
    starts = range(0, targets, seq_len)
    rows_at_once = max(1, BATCH_LOGITS // (vocab_size * seq_len))
    total = done = 0.0
    for first in range(0, len(starts), rows_at_once):
        batch = [
            _window(ids, start, min(start + seq_len, targets), lead, bos)
            for start in starts[first : first + rows_at_once]
        ]
        for length in sorted({len(row) for row in batch}, reverse=True):  # the last window may be shorter
            rows = np.stack([row for row in batch if len(row) == length])
            total += _loss(checkpoint, torch.from_numpy(rows))
            done += rows.shape[0] * (length - 1)
        if on_tokens is not None:
            on_tokens(int(done), targets)
    if not math.isfinite(total):
        rule = "is NaN or infinite: the model can't predict text"
        raise UserError("can't measure that model", [Problem("loss", total, rule, "check its weights")])
    size = int(widths[lead : lead + targets].sum())
    loss = total / targets
    return Perplexity(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=total / math.log(2) / max(1, size),
        tokens=targets,
        bytes=size,
        seq_len=seq_len,
        text=text.name,
    )


def _trained_length(folder: Path) -> int:
    """Return the sequence length that `nas train` recorded; the default for another model.

    Raises:
        UserError: the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return SEQ_LEN
    try:
        settings = read_object(path).get("settings")
        length = settings.get("seq_len") if isinstance(settings, dict) else None
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError("has no settings.seq_len of at least 1")
        return length
    except (OSError, ValueError) as error:
        problem = Problem(str(path), None, f"is damaged: {error}", "remove it, or give --seq-len")
        raise UserError("the model's training record can't be read", [problem]) from error


@torch.inference_mode()
def _loss(checkpoint: Checkpoint, rows: torch.Tensor) -> float:
    """Return the summed cross-entropy of rows (b, t + 1) in nats."""
    rows = rows.to(checkpoint.device)
    logits = checkpoint.model(input_ids=rows[:, :-1], use_cache=False).logits
    return float(F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="sum"))


def _window(ids: NDArray[np.int64], start: int, stop: int, lead: int, bos: int | None) -> NDArray[np.int64]:
    """Return the context and targets of a window, with one token or the special token before them."""
    if bos is None:
        return ids[start : stop + lead]
    return np.concatenate([np.array([bos], dtype=np.int64), ids[start:stop]])


def _tokenize(
    checkpoint: Checkpoint, text: Text, enough: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], int | None]:
    """Return (ids, bytes per id, the special token that begins texts or None)."""
    tokenizer = checkpoint.tokenizer
    if tokenizer.eos_token is None:
        problem = Problem("tokenizer", str(checkpoint.folder), "has no end-of-text token")
        raise UserError(f"{checkpoint.name}: can't be used", [problem])
    encoder = TextTokenizer(tokenizer.backend_tokenizer, str(tokenizer.eos_token))
    beginning = tokenizer("", add_special_tokens=True)["input_ids"]
    bos = int(beginning[0]) if beginning and beginning[0] != encoder.eos_id else None
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
    return np.concatenate(parts or nothing), np.concatenate(widths or nothing), bos


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
