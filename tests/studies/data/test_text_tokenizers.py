from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.data.tokenizers import TextTokenizer, canonical_spec, parse_bpe, write_bpe, write_pretrained
from surgery.config.problems import UserError

# Letters, combining marks, emoji with modifiers, right-to-left, controls: all that UTF-8 can hold.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
AWKWARD = [
    "👩‍👩‍👧‍👦 family",
    "e\u0301\u0302",
    "שלום עולם",
    "   \t\n  ",
    "\x00\x01",
    "naïve café — “quoted”",
    "𝔘𝔫𝔦🇩🇪",
]


@pytest.fixture(scope="module")
def bpe(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    write_bpe(700, documents, folder)
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[TextTokenizer]:
    """Tokenizers whose offsets are not those of bytes: lower-casing, NFKC, dropped spaces, unknown words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "<|endoftext|>": 1, "the": 2}, unk_token="[UNK]"))
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    trimmed = Tokenizer(models.BPE({"<|endoftext|>": 0, **{c: i + 1 for i, c in enumerate(_alphabet())}}, []))
    trimmed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trimmed.post_processor = processors.ByteLevel(trim_offsets=True)
    return [TextTokenizer(words, "<|endoftext|>"), TextTokenizer(trimmed, "<|endoftext|>")]


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def test_bytes_of_tokens_add_up_for_any_text_and_tokenizer(bpe: Path, others: list[TextTokenizer]) -> None:
    tokenizers = [TextTokenizer.open(bpe), *others]

    @settings(max_examples=150, deadline=None)
    @given(st.lists(ANY_TEXT | st.sampled_from(AWKWARD), min_size=1, max_size=4))
    def check(texts: list[str]) -> None:
        for tokenizer in tokenizers:
            plain = tokenizer.encode(texts)
            for text, ids, (same_ids, counts) in zip(
                texts, plain, tokenizer.encode_with_bytes(texts), strict=True
            ):
                np.testing.assert_array_equal(ids, same_ids)
                assert len(counts) == len(ids)
                assert (counts >= 0).all()
                if len(ids):
                    assert counts.sum() == len(text.encode())

    check()


def test_ascii_tokens_of_a_byte_level_bpe_have_their_own_length(bpe: Path, documents: list[str]) -> None:
    tokenizer = TextTokenizer.open(bpe)
    text = next(text for text in documents if text.isascii())
    [(ids, counts)] = tokenizer.encode_with_bytes([text])
    assert counts.tolist() == [len(tokenizer.decode([i])) for i in ids]


@settings(max_examples=60, deadline=None)
@given(text=ANY_TEXT)
def test_a_byte_level_bpe_loses_nothing(bpe: Path, text: str) -> None:
    tokenizer = TextTokenizer.open(bpe)
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


def test_a_text_cannot_end_its_document(bpe: Path) -> None:
    tokenizer = TextTokenizer.open(bpe)
    [ids] = tokenizer.encode(["before <|endoftext|> behind"])
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == "before <|endoftext|> behind"


def test_transformers_loads_the_trained_tokenizer(bpe: Path, documents: list[str], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours = TextTokenizer.open(bpe)
    theirs = AutoTokenizer.from_pretrained(str(bpe))
    assert (len(theirs), theirs.eos_token_id, theirs.eos_token) == (700, ours.eos_id, "<|endoftext|>")
    assert ours.vocab_size == 700
    for text in documents[:20]:
        assert theirs(text)["input_ids"] == ours.encode([text])[0].tolist()
        assert theirs.decode(theirs(text)["input_ids"]) == text
    write_pretrained(str(bpe), tmp_path / "copy")
    assert (
        TextTokenizer.open(tmp_path / "copy").encode(documents[:5])[0].tolist()
        == ours.encode(documents)[0].tolist()
    )


def test_training_is_deterministic_across_processes(bpe: Path, documents: list[str], tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(documents))
    code = (
        "import json, sys; from pathlib import Path; from studies.data.tokenizers import write_bpe\n"
        "write_bpe(700, json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "texts.json", tmp_path / "again"], check=True)
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (bpe / "tokenizer.json").read_bytes()


def test_a_real_pretrained_tokenizer(shared_data: Path, documents: list[str], tmp_path: Path) -> None:
    write_pretrained(str(shared_data / "smollm2-tokenizer"), tmp_path / "copy")
    tokenizer = TextTokenizer.open(tmp_path / "copy")
    assert tokenizer.vocab_size == 49_152
    for text, (ids, counts) in zip(AWKWARD, tokenizer.encode_with_bytes(AWKWARD), strict=True):
        assert tokenizer.decode(ids) == text
        assert counts.sum() == len(text.encode())


def test_specs(bpe: Path) -> None:
    assert parse_bpe("bpe:8k") == 8_000
    assert canonical_spec("bpe") == canonical_spec("bpe:4096") == "bpe:4096"
    assert canonical_spec(str(bpe)).startswith(f"{bpe.resolve()}#")
    assert parse_bpe("gpt2") is None


@pytest.mark.parametrize("spec", ["bpe:big", "bpe:100", "bpe:-3", "bpe:2B"])
def test_refused_sizes(spec: str) -> None:
    with pytest.raises(UserError, match="for example bpe:4096"):
        parse_bpe(spec)


def test_a_hub_tokenizer_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="bpe:4096 needs no network"):
        write_pretrained("nobody/no-such-tokenizer", tmp_path / "out")


def test_folders_that_hold_no_usable_tokenizer(bpe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be loaded"):
        write_pretrained(str(tmp_path), tmp_path / "out")
    (tmp_path / "tokenizer.json").write_bytes((bpe / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match="no end-of-text token"):
        write_pretrained(str(tmp_path), tmp_path / "out")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        TextTokenizer.open(tmp_path)
