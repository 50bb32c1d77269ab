"""Special tokens and tokenizers that don't fit the embedding: said in the plan, harmless in the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from surgery.apply.defaults import generation_defaults
from surgery.apply.execute import rewrite
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.config.problems import UserError
from surgery.hf.export import write

Make = Callable[..., Path]

ROWS = 61  # of the checkpoints here


def add_tokenizer(folder: Path, *, ordinary: int = ROWS - 1, added: tuple[str, ...] = ("</s>",)) -> Path:
    """A byte-level tokenizer of so many ordinary tokens, special ones after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:ordinary]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(added))
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": added[0], "pad_token": added[-1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Changes fields; None removes one."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


def written(folder: Path, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and generation_config.json of the model that a surgery without changes writes."""
    source = read_source(folder)
    model, _ = rewrite(source, plan(source, {}))
    out.mkdir()
    write(model, out, tokenizer_dir=folder, generation_config=generation_defaults(source)[0])
    first, second = (
        json.loads((out / f"{name}.json").read_text()) for name in ("config", "generation_config")
    )
    return first, second


def test_a_tokenizer_that_fits_says_nothing(checkpoint: Make, tmp_path: Path) -> None:
    assert not read_source(add_tokenizer(checkpoint())).notes


def test_added_tokens_without_a_row_are_said_and_not_written(checkpoint: Make, tmp_path: Path) -> None:
    folder = add_tokenizer(checkpoint(pad_token_id=None), added=("</s>", "<pad>"))
    edit(folder / "generation_config.json", eos_token_id=None, pad_token_id=None)
    (note,) = read_source(folder).notes
    assert "1 token has no row in the model, which has 61: such as '<pad>', 61" in note
    assert "resize_token_embeddings" in note
    assert note in plan(read_source(folder), {}).warnings
    config, generation = written(folder, tmp_path / "out")
    assert config["eos_token_id"] == 2  # config.json's own
    assert config["pad_token_id"] is None
    assert generation.get("pad_token_id") is None


def test_tokens_that_only_the_settings_add_count_too(checkpoint: Make) -> None:
    folder = add_tokenizer(checkpoint())
    extra = {"content": "<x>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    edit(folder / "tokenizer_config.json", added_tokens_decoder={"61": {**extra, "special": True}})
    assert "'<x>', 61" in read_source(folder).notes[0]


def test_the_tokenizer_of_another_model_is_refused(checkpoint: Make) -> None:
    with pytest.raises(UserError, match=r"tokenizer: 140 tokens have no row .* the model's own tokenizer"):
        read_source(add_tokenizer(checkpoint(), ordinary=200))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", "{", "tokenizer.json: can't be read"),
        ("tokenizer.json", '{"model": 3}', "can't be loaded"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: can't be read: must hold an object"),
        ("tokenizer_config.json", "{", "tokenizer_config.json"),
        ("special_tokens_map.json", '"x"', "special_tokens_map.json"),
        ("added_tokens.json", "3", "added_tokens.json"),
    ],
)
def test_broken_tokenizer_files_are_refused(checkpoint: Make, name: str, content: str, said: str) -> None:
    folder = add_tokenizer(checkpoint())
    (folder / name).write_text(content)
    with pytest.raises(UserError) as caught:
        read_source(folder)
    assert said in str(caught.value)


def test_a_tokenizer_that_needs_code_is_copied_with_a_note(checkpoint: Make, tmp_path: Path) -> None:
    """Here one of a kind that no package at hand can read: the surgery needs none."""
    folder = checkpoint()
    (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    (note,) = read_source(folder).notes
    assert "its files are copied as they are" in note
    written(folder, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"sentencepiece"


@pytest.mark.parametrize("file", ["config", "generation_config"])
@pytest.mark.parametrize(
    ("given", "kept"), [(99999, None), ([2, 99999], [2]), (-1, None), ([-5, 61], None), ([7, 2], [7, 2])]
)
def test_special_tokens_out_of_range_are_dropped_and_said(
    checkpoint: Make, tmp_path: Path, file: str, given: Any, kept: Any
) -> None:
    folder = checkpoint()
    for name in ("config", "generation_config"):
        edit(folder / f"{name}.json", eos_token_id=given if name == file else None)
    notes = read_source(folder).notes
    assert notes == () if given == kept else f"{file}.json: eos_token_id" in notes[0]
    source = read_source(folder)
    assert generation_defaults(source)[0].get("eos_token_id") == kept


@pytest.mark.parametrize("given", ["x", True, 2.5, {"a": 1}])
def test_special_tokens_that_are_no_numbers_are_said(checkpoint: Make, given: Any) -> None:
    folder = checkpoint()
    edit(folder / "generation_config.json", pad_token_id=given)
    source = read_source(folder)
    assert "generation_config.json: pad_token_id" in source.notes[0]
    assert "pad_token_id" not in source.generation
