"""The work of a preparation: a corpus, part by part, to shards that survive being killed.

A part is a run of consecutive documents that gives one train shard and one val shard. When it is finished,
its files get their names and `progress.json` takes it up together with the place of the next document; a
later run goes on from there. `meta.json` comes last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studies.data import tokenizers
from studies.data.corpora import Batch, Corpus, Cursor, mend
from studies.data.folder import TEMPORARY, read_json, write_json
from studies.data.request import is_held_out
from studies.data.shards import (
    FORMAT,
    FORMAT_VERSION,
    META,
    PROGRESS,
    TOKENIZER,
    Shard,
    ShardWriter,
    TokenData,
    content_hash,
    summary,
    token_dtype,
)
from studies.data.tokenizers import TextTokenizer
from surgery.problems import Problem, UserError

Progress = Callable[[int, int, int | None], None]


@dataclass(frozen=True)
class Part:
    """A finished stretch of the corpus and the place behind it."""

    train: Shard | None
    val: Shard | None
    documents: int
    blank: int
    cursor: Cursor

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Part:
        shards = {name: Shard(**data[name]) if data[name] else None for name in ("train", "val")}
        return cls(**{**data, **shards})


class Preparation:
    """One run over a locked folder."""

    def __init__(self, folder: Path, corpus: Corpus, tokenizer_spec: str, request: dict[str, Any]) -> None:
        self.folder, self.corpus, self.tokenizer_spec, self.request = folder, corpus, tokenizer_spec, request
        self.fraction = float(request["val_fraction"])
        self.parts: list[Part] = []
        self.exhausted = False

    def run(self, progress: Progress | None) -> TokenData:
        for leftover in self.folder.glob("*" + TEMPORARY):  # of a run that was killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self.tokenizer = self._tokenizer()
        self._take_up()
        cursor = self.parts[-1].cursor if self.parts else {}
        batches = _Batches(self.corpus.batches(cursor))
        while not self._enough(self._count("train"), self._count("val")) and not self.exhausted:
            self._make_part(batches, progress)
        return self._finish()

    def _tokenizer(self) -> TextTokenizer:
        """The tokenizer in the folder; trained or copied there if there is none yet."""
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

    def _take_up(self) -> None:
        """Finished parts of an earlier run, up to the first whose files are not whole."""
        state = read_json(self.folder / PROGRESS) or {}
        if state.get("tokenizer_hash") != self.tokenizer.hash:
            return
        width = token_dtype(self.tokenizer.vocab_size).itemsize
        for data in state["parts"]:
            part = Part.from_dict(data)
            for shard in filter(None, (part.train, part.val)):
                path = self.folder / shard.file
                if not path.is_file() or path.stat().st_size != shard.tokens * width:
                    return
            self.parts.append(part)
        self.exhausted = bool(state.get("exhausted"))

    def _count(self, split: str) -> int:
        return sum(shard.tokens for part in self.parts if (shard := getattr(part, split)) is not None)

    def _enough(self, train: int, val: int) -> bool:
        limit = self.request["max_tokens"]
        return limit is not None and train >= limit and val >= self.request["min_val_tokens"]

    def _make_part(self, batches: _Batches, progress: Progress | None) -> None:
        """Documents until a shard is full, enough is held out, or the corpus ends; then the part is kept."""
        dtype = token_dtype(self.tokenizer.vocab_size)
        number = len(self.parts)
        train = ShardWriter(self.folder, f"train-{number:05d}", dtype, with_bytes=False)
        val = ShardWriter(self.folder, f"val-{number:05d}", dtype, with_bytes=True)
        before_train, before_val = self._count("train"), self._count("val")
        before_documents = sum(part.documents for part in self.parts)
        limit = self.request["max_tokens"] or float("inf")
        documents = blank = 0
        cursor: Cursor = {}
        full = False
        try:
            while not full and (batch := batches.next()) is not None:
                texts = [mend(text) for text in batch.texts]
                held_out = [bool(text) and is_held_out(text, self.fraction) for text in texts]
                wants_train = before_train + train.tokens < limit
                kept = [t for t, held in zip(texts, held_out, strict=True) if t and not held and wants_train]
                train_ids = iter(self.tokenizer.encode(kept))
                out = [t for t, held in zip(texts, held_out, strict=True) if held]
                val_ids = iter(self.tokenizer.encode_with_bytes(out))
                used = 0
                for text, held in zip(texts, held_out, strict=True):
                    used += 1
                    blank += not text
                    if held:
                        ids, counts = next(val_ids)
                        if len(ids):
                            val.write(
                                np.append(ids, self.tokenizer.eos_id), int(counts.sum()), np.append(counts, 0)
                            )
                    elif text and wants_train:
                        ids = next(train_ids)
                        if before_train + train.tokens < limit and len(ids):
                            train.write(np.append(ids, self.tokenizer.eos_id), len(text.encode()))
                    full = (
                        train.tokens >= self.request["shard_tokens"]
                        or val.tokens >= self.request["shard_tokens"]
                        or self._enough(before_train + train.tokens, before_val + val.tokens)
                    )
                    if full:
                        break
                documents += used
                cursor = batch.cursor_at(used)
                batches.put_back(batch, used)
                if progress is not None:
                    progress(
                        before_documents + documents, before_train + train.tokens, self.request["max_tokens"]
                    )
            self.exhausted = not full
            self.parts.append(Part(train.commit(), val.commit(), documents, blank, cursor))
        finally:
            train.abandon()
            val.abandon()
        self._save()

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
            (self.folder / PROGRESS).unlink(missing_ok=True)
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
            "dtype": token_dtype(self.tokenizer.vocab_size).name,
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
    """Batches of a corpus, of which the unread rest can be put back."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._rest: Batch | None = None

    def next(self) -> Batch | None:
        batch, self._rest = self._rest, None
        return batch if batch is not None else next(self._batches, None)

    def put_back(self, batch: Batch, used: int) -> None:
        if used < len(batch.texts):
            self._rest = Batch(batch.cursor_at(used), batch.texts[used:])
