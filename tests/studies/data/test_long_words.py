"""Words too long to train a tokenizer on are cut, and only those; the user is warned."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from studies.data import TextTokenizer, prepare
from studies.data.long_words import MAX_WORD, ShortWords
from studies.data.tokenizers import cut_words, write_bpe

LONG = 10 * MAX_WORD + 7


def letters(count: int) -> str:
    return "".join(random.Random(0).choices(string.ascii_letters, k=count))


@pytest.mark.parametrize("word", ["x" * LONG, "7" * LONG, "-" * LONG, " " * LONG, "é" * LONG, "_=" * LONG])
def test_a_long_word_of_any_kind_is_cut_and_nothing_is_lost(word: str) -> None:
    text = f"Before {word} after."
    short = ShortWords(["first", text, "last"])
    pieces = list(short)
    assert "".join(pieces) == f"first{text}last"
    assert short.cut == 1
    assert LONG <= short.longest <= len(word) + 2  # with the blanks beside a run of blanks
    again = ShortWords(pieces)
    assert list(again) == pieces
    assert again.cut == 0


@pytest.mark.parametrize(
    "text",
    ["", "short words only " * 100, "x" * MAX_WORD, "ab1" * MAX_WORD, "汉字，" * MAX_WORD, "a-" * LONG],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    short = ShortWords([text])
    assert "".join(short) == text
    assert short.cut == 0
    assert len(list(short)) <= 1


def test_a_tokenizer_of_ordinary_text_does_not_change(tmp_path: Path, documents: list[str]) -> None:
    write_bpe(400, documents, tmp_path / "plain")
    assert cut_words(tmp_path / "plain") == (0, 0)
    assert not (tmp_path / "plain" / "training.json").exists()


def test_one_word_of_400_kb_is_trained_on_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "blob.txt"
    page = "A page of ordinary words, again and again. " * 50
    pages = [f"{page} {number}" for number in range(20)]
    path.write_text("\n<|endoftext|>\n".join([*pages, letters(400_000)]))
    data = prepare(str(path), "bpe:1000", tmp_path / "out", val_fraction=0.3)
    (warning,) = data.warnings()
    assert "1 words of more than 256 characters (the longest: 400,000) were cut" in warning
    tokenizer = TextTokenizer.open(data.tokenizer_dir)
    word = letters(400_000)
    (ids,) = tokenizer.encode([word])
    assert tokenizer.decode(ids) == word
