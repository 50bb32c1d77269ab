"""Preparing a corpus part by part, so that a killed run loses only the unfinished part.

A part is a run of consecutive documents that gives one train shard and one val shard. When it is finished,
its files are renamed to their final names, and `progress.json` lists it with the position of the next
document; a later run resumes from there. `meta.json` is written last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.data import tokenizers
from studies.data.corpus import Batch, Corpus, Cursor, clean_text
from studies.data.request import is_held_out
from studies.data.shards import (
    BYTES_DTYPE,
    FORMAT,
    FORMAT_VERSION,
    META,
    PROGRESS,
    TOKENIZER,
    Shard,
    ShardWriter,
    TokenData,
    content_hash,
    is_own,
    read_state,
    summary,
    token_dtype,
)
from studies.data.tokenizers import TextTokenizer
from studies.data.writing import sweep
from studies.files.json_file import write_json
from surgery.config.problems import Problem, UserError
from surgery.files.atomic import TEMPORARY

Progress = Callable[[int, int, int | None], None]


@dataclass(frozen=True)
class Part:
    """A finished part of the corpus and the position after it."""

    train: Shard | None
    val: Shard | None
    documents: int
    blank: int
    cursor: Cursor

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Part:
        """Return a part from `progress.json`."""
        shards = {name: Shard(**data[name]) if data[name] else None for name in ("train", "val")}
        return cls(**{**data, **shards})


@dataclass(frozen=True)
class _Document:
    """Token ids with the end of text; total bytes of text, and bytes per token of a held-out document."""

    ids: NDArray[np.int64]
    text_bytes: int
    token_bytes: NDArray[np.int64] | None = None


class Preparation:
    """One run of `prepare` in a locked folder."""

    def __init__(self, folder: Path, corpus: Corpus, tokenizer_spec: str, request: dict[str, Any]) -> None:
        self.folder, self.corpus, self.tokenizer_spec, self.request = folder, corpus, tokenizer_spec, request
        self.fraction = float(request["val_fraction"])
        self.parts: list[Part] = []
        self.exhausted = False

    def run(self, progress: Progress | None) -> TokenData:
        """Prepare the corpus, resuming from finished parts.

        Raises:
            UserError: the corpus can't be read or is too small, or the folder is damaged.
        """
        sweep(self.folder, is_own)
        try:
            state = read_state(self.folder / PROGRESS) or {}
            if (
                state.get("request") != self.request
            ):  # new, or begun for another request and abandoned before its first part
                shutil.rmtree(self.folder / TOKENIZER, ignore_errors=True)
                write_json(self.folder / PROGRESS, {"request": self.request, "parts": []})
                state = {}
            self.tokenizer = self._tokenizer()
            self.dtype = token_dtype(self.tokenizer.vocab_size)
            self._resume(state)
            batches = _Batches(self.corpus.batches(self.parts[-1].cursor if self.parts else {}))
            while not self.exhausted and not self._enough(self._tokens("train"), self._tokens("val")):
                self._make_part(batches, progress)
            return self._finish()
        finally:
            sweep(self.folder, is_own)

    def _tokenizer(self) -> TextTokenizer:
        """Return the folder's tokenizer; train or copy it first if there is none yet."""
        target = self.folder / TOKENIZER
        if not target.is_dir():
            temporary = self.folder / (TOKENIZER + TEMPORARY)
            vocab_size = tokenizers.parse_bpe(self.tokenizer_spec)
            if vocab_size is None:
                tokenizers.write_pretrained(self.tokenizer_spec, temporary)
            else:
                texts = (text for text in self.corpus.texts() if not is_held_out(text, self.fraction))
                tokenizers.write_bpe(vocab_size, texts, temporary)
            os.replace(temporary, target)
        return TextTokenizer.open(target)

    def _resume(self, state: dict[str, Any]) -> None:
        """Reuse the finished parts of an earlier run, up to the first whose files are incomplete."""
        if state.get("tokenizer_hash") != self.tokenizer.hash:
            return
        try:
            for data in state["parts"]:
                part = Part.from_dict(data)
                if not all(shard is None or self._is_whole(shard) for shard in (part.train, part.val)):
                    return
                self.parts.append(part)
            self.exhausted = bool(state["exhausted"])
        except (KeyError, TypeError, AttributeError) as error:
            rule = f"is damaged: {type(error).__name__} {error}"
            problem = Problem("data", str(self.folder / PROGRESS), rule, "remove the folder, prepare again")
            raise UserError("This preparation can't be resumed", [problem]) from error

    def _is_whole(self, shard: Shard) -> bool:
        sizes = {shard.file: self.dtype.itemsize, shard.bytes_file: BYTES_DTYPE.itemsize}
        paths = {self.folder / name: shard.tokens * width for name, width in sizes.items() if name}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

    def _tokens(self, split: str) -> int:
        return sum(shard.tokens for part in self.parts if (shard := getattr(part, split)) is not None)

    def _enough(self, train: int, val: int) -> bool:
        limit = self.request["max_tokens"]
        return limit is not None and train >= limit and val >= self.request["min_val_tokens"]

    def _make_part(self, batches: _Batches, progress: Progress | None) -> None:
        """Encode documents until a shard is full, the request is met or the corpus ends; save the part."""
        before = {split: self._tokens(split) for split in ("train", "val")}
        documents_before = sum(part.documents for part in self.parts)
        limit, shard_tokens = self.request["max_tokens"], self.request["shard_tokens"]
        stem = f"{len(self.parts):05d}"
        documents = blank = 0
        cursor: Cursor = {}
        full = False
        with (
            ShardWriter(self.folder, f"train-{stem}", self.dtype, with_bytes=False) as train,
            ShardWriter(self.folder, f"val-{stem}", self.dtype, with_bytes=True) as val,
        ):
            while not full and (batch := batches.next()) is not None:
                used = 0
                wants_train = limit is None or before["train"] + train.tokens < limit
                for document in self._encode(batch.texts, wants_train):
                    used += 1
                    blank += not document.text_bytes
                    if document.token_bytes is not None:
                        val.write(document.ids, document.text_bytes, document.token_bytes)
                    elif len(document.ids) and wants_train:
                        train.write(document.ids, document.text_bytes)
                        wants_train = limit is None or before["train"] + train.tokens < limit
                    full = max(train.tokens, val.tokens) >= shard_tokens or self._enough(
                        before["train"] + train.tokens, before["val"] + val.tokens
                    )
                    if full:
                        break
                documents += used
                cursor = batch.cursor_at(used)
                batches.unread(batch, used)
                if progress is not None:
                    progress(documents_before + documents, before["train"] + train.tokens, limit)
            self.exhausted = not full
            self.parts.append(Part(train.commit(), val.commit(), documents, blank, cursor))
        self._save()

    def _encode(self, raw: list[str], train_too: bool) -> Iterator[_Document]:
        """Yield every text with its end-of-text token, in order; without ids if it is blank or not needed."""
        texts = [clean_text(text) for text in raw]
        held_out = [bool(text) and is_held_out(text, self.fraction) for text in texts]
        to_train = [bool(text) and train_too and not held for text, held in zip(texts, held_out, strict=True)]
        train = iter(self.tokenizer.encode(list(compress(texts, to_train))))
        val = iter(self.tokenizer.encode_with_bytes(list(compress(texts, held_out))))
        eos = self.tokenizer.eos_id
        nothing = np.zeros(0, dtype=np.int64)
        for text, is_train, is_val in zip(texts, to_train, held_out, strict=True):
            ids, token_bytes = next(val) if is_val else (next(train) if is_train else nothing, None)
            if len(ids) == 0:
                yield _Document(nothing, len(text.encode()))
            else:
                counts = None if token_bytes is None else np.append(token_bytes, 0)
                yield _Document(np.append(ids, eos), len(text.encode()), counts)

    def _save(self) -> None:
        write_json(
            self.folder / PROGRESS,
            {
                "request": self.request,
                "tokenizer_hash": self.tokenizer.hash,
                "parts": [asdict(part) for part in self.parts],
                "exhausted": self.exhausted,
            },
        )

    def _finish(self) -> TokenData:
        train = summary([part.train for part in self.parts if part.train])
        val = summary([part.val for part in self.parts if part.val])
        if train["tokens"] < 2 or val["tokens"] < 2:
            # there is nothing to resume
            write_json(self.folder / PROGRESS, {"request": self.request, "parts": []})
            self._refuse_empty(train["documents"], val["documents"])
        meta = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "corpus": {
                "spec": self.corpus.spec,
                "name": self.corpus.name,
                "source": self.corpus.source,
                "licence": self.corpus.licence,
                "column": self.corpus.column,
                "ignored_files": list(self.corpus.ignored),
                "documents_read": sum(part.documents for part in self.parts),
                "blank_documents": sum(part.blank for part in self.parts),
                "exhausted": self.exhausted,
            },
            "tokenizer": {
                "spec": self.request["tokenizer"],
                "hash": self.tokenizer.hash,
                "vocab_size": self.tokenizer.vocab_size,
                "eos_id": self.tokenizer.eos_id,
                "eos_token": self.tokenizer.eos_token,
            },
            "dtype": self.dtype.name,
            "train": train,
            "val": val,
            "request": self.request,
        }
        meta["content_hash"] = content_hash(meta)
        write_json(self.folder / META, meta)
        (self.folder / PROGRESS).unlink(missing_ok=True)
        return TokenData.open(self.folder)

    def _refuse_empty(self, train_documents: int, val_documents: int) -> None:
        if not train_documents and not val_documents:
            rule, hint = "holds no text", f"is {self.corpus.column!r} the right column, and the file whole?"
        elif not val_documents:
            rule = (
                f"has {train_documents} documents, none of which falls into the held-out {self.fraction:.1%}"
            )
            hint = "more text, or a larger --val-fraction (up to 0.5)"
        else:
            rule, hint = "leaves nothing to train on", "more text, or a smaller --val-fraction"
        raise UserError("This corpus is too small", [Problem("data", self.corpus.spec, rule, hint)])


class _Batches:
    """Batches of a corpus with a one-batch look-ahead buffer."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._rest: Batch | None = None

    def next(self) -> Batch | None:
        """Return the next batch; None at the end."""
        batch, self._rest = self._rest, None
        return batch if batch is not None else next(self._batches, None)

    def unread(self, batch: Batch, used: int) -> None:
        """Return all but the first `used` documents of a batch to the front."""
        if used < len(batch.texts):
            self._rest = Batch(batch.cursor_at(used), batch.texts[used:])
