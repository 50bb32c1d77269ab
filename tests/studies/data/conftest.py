"""Small real corpora, cut from the built-in text."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from studies.data import TokenData, open_corpus, prepare


@pytest.fixture(scope="session")
def documents() -> list[str]:
    return list(islice(open_corpus("builtin").texts(), 300))


@pytest.fixture(scope="session")
def corpus_file(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def prepared(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """Several shards of a small vocabulary."""
    return prepare(
        str(corpus_file), "bpe:600", tmp_path_factory.mktemp("prepared") / "data", shard_tokens=40_000
    )
