"""Listing the prepared folders below `data_home()`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.data.corpora import open_corpus
from studies.data.shards import META, PROGRESS, read_state
from studies.files.home import data_home
from surgery.config.paths import expand
from surgery.config.problems import UserError


@dataclass(frozen=True)
class Prepared:
    """A folder of `prepare`; one that is not `finished` was interrupted and can be resumed."""

    folder: Path
    corpus: str
    tokenizer: str
    train_tokens: int
    val_tokens: int
    finished: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "folder": str(self.folder),
            "corpus": self.corpus,
            "tokenizer": self.tokenizer,
            "train_tokens": self.train_tokens,
            "val_tokens": self.val_tokens,
            "finished": self.finished,
        }


def list_prepared(home: Path | None = None) -> list[Prepared]:
    """Return every prepared folder, sorted by name, without damaged ones."""
    home = home or data_home()
    prepared = []
    for folder in sorted(home.iterdir()) if home.is_dir() else []:
        try:
            item = _read(folder)
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            continue
        if item is not None:
            prepared.append(item)
    return prepared


def corpus_info(spec: str, column: str | None = None) -> dict[str, Any]:
    """Describe a corpus without reading it, and list its preparations, as plain JSON values.

    Raises:
        UserError: no such corpus.
    """
    corpus = open_corpus(spec, column)
    return {
        "corpus": corpus.spec,
        "source": corpus.source,
        "licence": corpus.licence,
        "column": corpus.column,
        "text_bytes": corpus.text_bytes(),
        "prepared": [item.to_dict() for item in list_prepared() if item.corpus == corpus.spec],
    }


def _read(folder: Path) -> Prepared | None:
    meta = read_state(folder / META)
    if meta is not None:
        tokenizer = str(meta["tokenizer"]["spec"])
        tokens = [int(meta[split]["tokens"]) for split in ("train", "val")]
        return Prepared(folder, str(meta["corpus"]["spec"]), tokenizer, tokens[0], tokens[1], True)
    begun = read_state(folder / PROGRESS)
    if begun is None:
        return None
    request = begun["request"]
    sums = [
        sum(part[split]["tokens"] for part in begun["parts"] if part[split]) for split in ("train", "val")
    ]
    return Prepared(folder, str(request["corpus"]), str(request["tokenizer"]), sums[0], sums[1], False)


def is_prepared(path: str) -> bool:
    """Return whether `path` is a folder that `prepare` finished or began."""
    folder = expand(path)
    return any(os.path.isfile(folder / name) for name in (META, PROGRESS))
