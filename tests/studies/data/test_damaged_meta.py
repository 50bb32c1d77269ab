"""A prepared folder whose meta.json or progress.json was changed is refused, by the field that is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from studies.data import TokenData, info, prepare
from studies.data.prepared import list_prepared
from surgery.config.problems import UserError

DAMAGE: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "text for a count": (("train", "tokens"), "many", "train.tokens must be int"),
    "no count": (("val", "bytes"), None, "val.bytes must be int"),
    "a negative count": (("val", "documents"), -1, "val.documents must be int"),
    "a flag for a count": (("tokenizer", "eos_id"), True, "tokenizer.eos_id must be int"),
    "another sum": (("train", "tokens"), 7, "train: its counts are not those of its shards"),
    "a list for a section": (("corpus",), [], "corpus.spec is missing"),
    "a number for a name": (("corpus", "spec"), 3, "corpus.spec must be str"),
    "a number among names": (("corpus", "ignored_files"), [1], "corpus.ignored_files must be names"),
    "no shards": (("val", "shards"), [], "val: its counts are not those of its shards"),
    "a shard of text": (("train", "shards", 0), "x", "train.shards[0].file is missing"),
    "a shard outside": (("train", "shards", 0, "file"), "../../x.bin", "which is no file name"),
    "a shard with more": (("val", "shards", 0, "more"), 1, "val.shards[0] has unknown fields"),
    "a share of text": (("request", "val_fraction"), "half", "request.val_fraction must be int or float"),
    "no vocabulary": (("tokenizer", "vocab_size"), 0, "tokenizer.vocab_size must be from 1"),
    "another hash": (("content_hash",), 5, "content_hash must be str"),
}


@pytest.fixture
def copied(prepared: TokenData, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared.folder, tmp_path / "data"))


@pytest.mark.parametrize(("keys", "value", "rule"), DAMAGE.values(), ids=DAMAGE)
def test_a_changed_field_is_named(copied: Path, keys: tuple[str | int, ...], value: Any, rule: str) -> None:
    meta = json.loads((copied / "meta.json").read_text())
    holder: Any = meta
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    (copied / "meta.json").write_text(json.dumps(meta))
    for read in (TokenData.open, info):
        with pytest.raises(UserError) as caught:
            read(copied)
        assert rule in str(caught.value)
        assert "meta.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_meta_of_another_shape(copied: Path, text: str) -> None:
    (copied / "meta.json").write_text(text)
    with pytest.raises(UserError, match=r"can't be used|meta\.json\n?.*can't be read(.|\n)*prepare again"):
        info(copied)
    list_prepared(copied.parent)


@pytest.mark.parametrize("parts", [None, [1], [{}], {"a": 1}, "x"])
def test_progress_of_another_shape(corpus_file: Path, tmp_path: Path, parts: object) -> None:
    out = tmp_path / "out"
    data = prepare(str(corpus_file), "bpe:300", out)
    (out / "meta.json").unlink()
    progress = {
        "request": data.meta["request"],
        "tokenizer_hash": data.meta["tokenizer"]["hash"],
        "parts": parts,
    }
    (out / "progress.json").write_text(json.dumps(progress))
    with pytest.raises(UserError, match="damaged"):
        prepare(str(corpus_file), "bpe:300", out)
