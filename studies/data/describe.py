"""Summary of a prepared folder for `nas data info`, and opening data by folder or by corpus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from studies.data.prepare import prepare
from studies.data.shards import META, TokenData
from studies.data.tokenizers import TextTokenizer
from surgery.config.paths import expand

SAMPLE_TOKENS = 80


def open_or_prepare(data: str, tokenizer: str = "bpe:4096", **settings: Any) -> TokenData:
    """Open a prepared folder, or prepare any other spec (settings: see `prepare`).

    Raises:
        UserError: neither is possible.
    """
    if os.path.isfile(expand(data) / META):
        return TokenData.open(expand(data))
    return prepare(data, tokenizer, **settings)


def info(folder: str | Path, *, verify: bool = False) -> dict[str, Any]:
    """Return counts, bytes per token, hashes and the decoded beginning of the text as plain JSON values.

    Args:
        verify: hash all shards again.

    Raises:
        UserError: not a prepared folder, or a damaged one.
    """
    data = TokenData.open(folder, verify=verify)
    text = TextTokenizer.open(data.tokenizer_dir)
    splits = {}
    for split in ("train", "val"):
        held = data.meta[split]
        splits[split] = {
            "tokens": held["tokens"],
            "documents": held["documents"],
            "bytes": held["bytes"],
            "bytes_per_token": held["bytes"] / held["tokens"],
            "shards": len(held["shards"]),
        }
    return {
        "folder": str(data.folder.resolve()),
        "corpus": data.meta["corpus"],
        "tokenizer": data.meta["tokenizer"],
        "dtype": data.meta["dtype"],
        "val_fraction": data.meta["request"]["val_fraction"],
        "max_tokens": data.meta["request"]["max_tokens"],
        **splits,
        "content_hash": data.content_hash,
        "verified": verify,
        "sample": text.decode(data.tokens("train")[:SAMPLE_TOKENS]),
    }
