from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.data import TextTokenizer, TokenData, info, open_corpus, open_or_prepare
from studies.data.request import is_held_out
from studies.data.shards import TokenView, token_dtype
from surgery.config.problems import UserError


@pytest.fixture
def copy(prepared: TokenData, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared.folder, tmp_path / "copy"))


def test_the_shards_hold_every_document_once(prepared: TokenData, documents: list[str]) -> None:
    tokenizer = TextTokenizer.open(prepared.tokenizer_dir)
    fraction = prepared.meta["request"]["val_fraction"]
    for split, held_out in (("train", False), ("val", True)):
        texts = [text for text in documents if is_held_out(text, fraction) is held_out]
        expected = np.concatenate([np.append(ids, tokenizer.eos_id) for ids in tokenizer.encode(texts)])
        np.testing.assert_array_equal(np.asarray(prepared.tokens(split)), expected)  # type: ignore[arg-type]
        assert prepared.meta[split]["documents"] == len(texts)
        assert prepared.meta[split]["bytes"] == sum(len(text.encode()) for text in texts)
    assert len(prepared.meta["train"]["shards"]) >= 3
    assert prepared.tokens("train").dtype == np.uint16


def test_windows_cover_every_target_once_also_across_shards(prepared: TokenData) -> None:
    seq_len = 97
    tokens = np.asarray(prepared.tokens("train"))
    count = prepared.num_sequences("train", seq_len)
    rows = prepared.batch(range(count), seq_len)
    assert rows.shape == (count, seq_len + 1)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows[:, :-1].ravel(), tokens[: count * seq_len])
    np.testing.assert_array_equal(rows[:, 1:].ravel(), tokens[1 : count * seq_len + 1])
    assert len(tokens) - (count * seq_len + 1) < seq_len
    with pytest.raises(IndexError):
        prepared.batch([count], seq_len)


def test_bytes_of_any_range_of_val_tokens_are_exact(prepared: TokenData) -> None:
    tokens = np.asarray(prepared.tokens("val"))
    tokenizer = TextTokenizer.open(prepared.tokenizer_dir)
    assert prepared.val_bytes(0, len(tokens)) == prepared.meta["val"]["bytes"]
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    for start, stop in zip([0, *(ends[:-1] + 1)], ends, strict=True):
        text = tokenizer.decode(tokens[start:stop])
        assert prepared.val_bytes(int(start), int(stop) + 1) == len(text.encode())
        middle = int(start + stop) // 2
        halves = prepared.val_bytes(int(start), middle) + prepared.val_bytes(middle, int(stop))
        assert halves == len(text.encode())
    assert prepared.val_bytes(int(ends[0]), int(ends[0]) + 1) == 0


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), data=st.data())
def test_a_view_slices_like_one_array(sizes: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(sizes), dtype=np.uint16)
    view = TokenView(np.split(whole, np.cumsum(sizes)[:-1]), whole.dtype)
    bound = st.none() | st.integers(-len(whole) - 2, len(whole) + 2)
    key = slice(data.draw(bound), data.draw(bound), data.draw(st.sampled_from([None, 1, 2, -1])))
    assert len(view) == len(whole)
    np.testing.assert_array_equal(view[key], whole[key])
    if len(whole):
        index = data.draw(st.integers(-len(whole), len(whole) - 1))
        assert view[index] == whole[index]
    with pytest.raises(IndexError):
        view[len(whole)]


def test_wide_vocabularies_take_four_bytes() -> None:
    assert token_dtype(65_536).itemsize == 2
    assert token_dtype(65_537).itemsize == 4


def test_info(prepared: TokenData, documents: list[str]) -> None:
    shown = json.loads(json.dumps(info(prepared.folder, verify=True)))
    assert shown["train"]["tokens"] == len(prepared.tokens("train"))
    assert 2 < shown["val"]["bytes_per_token"] < 5
    assert shown["content_hash"] == prepared.content_hash
    assert any(text.startswith(shown["sample"][:60]) for text in documents)


def test_a_prepared_folder_is_a_corpus_name_too(prepared: TokenData) -> None:
    assert open_or_prepare(str(prepared.folder)).content_hash == prepared.content_hash


def test_damage_is_found(copy: Path) -> None:
    shard = copy / "train-00001.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    TokenData.open(copy)
    with pytest.raises(UserError, match=r"train-00001.bin.*content has changed"):
        TokenData.open(copy, verify=True)
    shard.write_bytes(content[:-2])
    (copy / "val-00000.bytes").unlink()
    with pytest.raises(UserError) as caught:
        TokenData.open(copy)
    assert len(caught.value.problems) == 2  # both at once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta.pop("val"), "is damaged"),
        (lambda meta: meta.update(version=99), "version 1, not nas-tokens 99"),
        (lambda meta: meta.update(format="other"), "must be nas-tokens"),
        (lambda meta: meta["train"]["shards"].pop(), "content_hash is not that of the shards"),
        (lambda meta: meta["tokenizer"].update(vocab_size=70_000), "must have"),
    ],
)
def test_a_changed_meta_is_refused(copy: Path, change: object, message: str) -> None:
    meta = json.loads((copy / "meta.json").read_text())
    change(meta)  # type: ignore[operator]
    (copy / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=message):
        TokenData.open(copy)


def test_a_folder_that_is_not_prepared_data(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UserError, match=r"holds no meta\.json"):
        TokenData.open(tmp_path)
    (copy / "meta.json").write_text('{"format": ')
    with pytest.raises(UserError, match="can't be read"):
        TokenData.open(copy)
    (copy / "meta.json").unlink()
    (copy / "progress.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        TokenData.open(copy)


def test_the_builtin_corpus_is_not_needed_to_read(prepared: TokenData) -> None:
    assert open_corpus("builtin").licence.startswith("PSF")
    assert TokenData.open(str(prepared.folder)).vocab_size == 600
