"""Corpora, tokenizers and token shards: from the name of a corpus to arrays of tokens.

    data = prepare("builtin", "bpe:4096")
    inputs_and_targets = data.batch([0, 1, 2], seq_len=512)     # (3, 513) int64

Importing this is cheap: `datasets`, `transformers` and `tokenizers` are imported where they are used.
"""

from __future__ import annotations

from studies.data.corpora import open_corpus
from studies.data.describe import info, open_or_prepare
from studies.data.prepare import prepare
from studies.data.shards import TokenData, TokenView
from studies.data.tokenizers import TextTokenizer
from studies.files.home import data_home

__all__ = [
    "TextTokenizer",
    "TokenData",
    "TokenView",
    "data_home",
    "info",
    "open_corpus",
    "open_or_prepare",
    "prepare",
]
