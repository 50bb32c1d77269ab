"""`nas eval` and `nas generate` on our own models and on stock ones."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import Result

Nas = Callable[..., Result]


def test_it_measures_what_training_measured(nas: Nas, model_folder: Path, prepared: Path) -> None:
    trained = json.loads((model_folder / "training.json").read_text())["result"]
    arguments = ("eval", model_folder, "--tokens", 2048, "--json")  # windows as it was trained on
    data = json.loads(nas(*arguments, "--data", prepared).stdout)
    assert data["tokens"] == 2048
    assert data["loss"] == pytest.approx(trained["val_loss"], abs=1e-5)
    assert data["bits_per_byte"] == pytest.approx(trained["val_bpb"], abs=1e-5)
    assert data["perplexity"] == pytest.approx(math.exp(data["loss"]))


def test_a_corpus_and_what_was_prepared_of_it_are_the_same_text(
    nas: Nas, llama_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out documents, whichever tokenizer the data was prepared with."""
    monkeypatch.setenv("NAS_HOME", str(tmp_path))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    shutil.copy(text_file, corpus)
    other = json.loads(nas("data", "prepare", corpus, "--tokenizer", "bpe:290", "--json").stdout)["folder"]
    by_corpus, by_folder = (
        json.loads(nas("eval", llama_folder, "--data", data, "--seq-len", 64, "--json").stdout)
        for data in (corpus, other)
    )
    assert by_corpus["tokens"] == by_folder["tokens"]
    assert by_corpus["loss"] == pytest.approx(by_folder["loss"], abs=1e-6)
    assert by_corpus["bytes"] == by_folder["bytes"]


@pytest.mark.parametrize("ending", ["txt", "md"])
def test_a_plain_file_is_measured_to_its_last_byte(
    nas: Nas, llama_folder: Path, tmp_path: Path, ending: str
) -> None:
    """Against transformers' own logits, window by window, written out."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path / f"text.{ending}"
    text = "  A line of text.\n\n\nAn über-long one — with ünïcode 漢字 🙂, and blanks at its end.  \n" * 3
    path.write_text(text)
    data = json.loads(nas("eval", llama_folder, "--data", path, "--seq-len", 16, "--json").stdout)
    assert data["bytes"] == len(text.encode())
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    ids = torch.tensor([tokenizer.eos_token_id, *tokenizer(text).input_ids])
    assert data["tokens"] == len(ids) - 1
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 16):
            window = ids[start : start + 17]
            logits = model(window[None, :-1]).logits[0]
            total += F.cross_entropy(logits, window[1:], reduction="sum").item()
    assert data["loss"] == pytest.approx(total / (len(ids) - 1), abs=1e-5)
    assert data["bits_per_byte"] == pytest.approx(total / math.log(2) / len(text.encode()), abs=1e-5)


def test_a_tokenizer_that_begins_texts_begins_every_window(
    nas: Nas, llama_folder: Path, tmp_path: Path
) -> None:
    """The tokenizer adds a start token, as Llama's do; here one that the vocabulary already has."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "llama"
    shutil.copytree(llama_folder, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos = tokenizer.token_to_id("!")
    tokenizer.post_processor = TemplateProcessing(single="! $A", special_tokens=[("!", bos)])
    tokenizer.save(str(folder / "tokenizer.json"))
    path = tmp_path / "text.txt"
    text = "Words, and more words, and the end of it."
    path.write_text(text)
    data = json.loads(nas("eval", folder, "--data", path, "--seq-len", 8, "--json").stdout)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert (data["tokens"], data["bytes"]) == (len(ids), len(text))
    model = AutoModelForCausalLM.from_pretrained(folder)
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(ids), 8):
            window = torch.tensor([bos, *ids[start : start + 8]])
            logits = model(window[None, :-1]).logits[0]
            total += F.cross_entropy(logits, window[1:], reduction="sum").item()
    assert data["loss"] == pytest.approx(total / len(ids), abs=1e-5)


def test_lengths_a_teacher_and_retrieval(
    nas: Nas, llama_folder: Path, model_folder: Path, prepared: Path
) -> None:
    options = ("--lengths", "64,192", "--tokens", 768, "--data", prepared, "--device", "cpu")
    plain = json.loads(nas("eval", llama_folder, *options, "--json").stdout)
    assert [item["seq_len"] for item in plain["lengths"]] == [64, 192]
    assert (plain["loss"], plain["seq_len"]) == (plain["lengths"][0]["loss"], 64)
    assert (plain["against"], plain["kl"], plain["retrieval"]) == (None, None, [])
    for length in (64, 192):
        one = nas("eval", llama_folder, "--seq-len", length, *options[2:], "--json")
        assert json.loads(one.stdout)["loss"] in [item["loss"] for item in plain["lengths"]]
    arguments = ("eval", llama_folder, "--against", model_folder, "--retrieval", 5, "--seq-len", 250)
    arguments = (*arguments, "--tokens", 500, "--data", prepared, "--device", "cpu")
    both = json.loads(nas(*arguments, "--json").stdout)
    teacher = json.loads(nas("eval", model_folder, *arguments[6:], "--json").stdout)
    assert both["teacher_loss"] == pytest.approx(teacher["loss"], abs=1e-6)
    assert both["kl"] > 0
    assert 0 <= both["agreement"] < 1
    assert [(item["task"], item["length"], item["prompts"]) for item in both["retrieval"]] == [
        ("pass_key", 250, 5), ("key_value", 250, 5),
    ]  # fmt: skip
    shown = nas(*arguments).stdout
    for words in ("teacher's loss", "agreement", "pass key", "key-value", "relative"):
        assert words in shown
    assert "192" in nas("eval", llama_folder, *options, "--against", llama_folder).stdout


def test_results_stand_in_the_model_card(
    nas: Nas, model_folder: Path, llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    """Compare with what the Hub's own library reads; results that are measured again are replaced."""
    from huggingface_hub import ModelCard

    folder = shutil.copytree(model_folder, tmp_path / "model")
    body = ModelCard.load(folder / "README.md").text
    arguments = ("eval", folder, "--data", prepared, "--tokens", 256, "--seq-len", 32, "--card")
    printed = json.loads(nas(*arguments, "--json").stdout)
    assert nas(*arguments, "--against", model_folder).exit_code == 0
    card = ModelCard.load(folder / "README.md")
    results = {item.metric_name: item.metric_value for item in card.data.eval_results}
    assert results["loss in nats/token at 32 tokens"] == pytest.approx(printed["loss"])
    assert results["greedy tokens of micro at 32 tokens"] == 1
    assert len(card.data.eval_results) == len(results) == 4
    assert {item.dataset_name for item in card.data.eval_results} == {f"held-out text of {prepared.name}"}
    assert (card.text, card.data.library_name) == (body, "transformers")
    assert nas("eval", llama_folder, "--card").exit_code == 2  # it has no card


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--lengths", "64,512"), "length = 512: exceeds the context of 256"),
        (("--lengths", "64", "--seq-len", 32), "has no effect beside --lengths"),
        (("--seed", 1), "has no effect on text alone"),
        (("--seq-len", 32, "--retrieval", 1), "too short for retrieval"),
        (("--probe", "recall", "--against", "x"), "has no effect on a probe"),
    ],
)
def test_options_that_do_not_go_together(
    nas: Nas, llama_folder: Path, prepared: Path, options: tuple[object, ...], said: str
) -> None:
    data = () if "--probe" in options else ("--data", prepared, "--tokens", 64)
    result = nas("eval", llama_folder, *data, *options)
    assert result.exit_code == 2
    assert said in str(result.exception)


def test_a_teacher_with_another_tokenizer_is_refused(
    nas: Nas, llama_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    from studies.data.tokenizers import write_bpe

    other = shutil.copytree(llama_folder, tmp_path / "other")
    write_bpe(300, [text_file.read_text(encoding="utf-8")[:20_000]], other)
    result = nas("eval", llama_folder, "--against", other)
    assert result.exit_code == 2
    assert "another tokenizer" in str(result.exception)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no tensors"), "not a readable"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickle"),
    ],
)
def test_folders_that_are_no_model_are_refused(
    nas: Nas, llama_folder: Path, tmp_path: Path, prepare: Callable[[Path], object], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    prepare(folder)
    for command in (("eval", folder, "--data", "builtin"), ("generate", folder, "text")):
        result = nas(*command)
        assert result.exit_code == 2
        assert said in str(result.exception)


def test_too_little_text_is_told(nas: Nas, llama_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("")
    assert "too little text" in str(nas("eval", llama_folder, "--data", path).exception)
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in str(nas("eval", llama_folder, "--data", path).exception)


def test_generate_streams_the_text_and_tells_the_speed(nas: Nas, model_folder: Path) -> None:
    arguments = ("generate", model_folder, "The module", "--tokens", 12)
    result = nas(*arguments)
    assert result.exit_code == 0
    assert result.stdout.startswith("The module")
    assert "tokens/s with cache" in result.stderr
    assert nas(*arguments).stdout == result.stdout
    assert nas(*arguments, "--seed", 5).stdout != result.stdout


def test_greedy_text_is_the_same_without_cache(nas: Nas, model_folder: Path, llama_folder: Path) -> None:
    for folder in (model_folder, llama_folder):
        arguments = ("generate", folder, "One two", "--tokens", 24, "--temperature", 0)
        cached, plain = nas(*arguments), nas(*arguments, "--no-cache")
        assert cached.stdout == plain.stdout
        assert "without cache" in plain.stderr


def test_generate_from_nothing_and_beyond_the_context(nas: Nas, llama_folder: Path) -> None:
    assert nas("generate", llama_folder, "", "--tokens", 4).exit_code == 0
    result = nas("generate", llama_folder, "text", "--tokens", 300)
    assert result.exit_code == 2
    assert "context of 256" in str(result.exception)


@pytest.mark.parametrize(
    "defaults",
    [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}, {"stop_strings": ["qqqq"]}],
)
def test_defaults_of_the_checkpoint_do_not_stop_it(
    nas: Nas, llama_folder: Path, tmp_path: Path, defaults: dict[str, object]
) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **defaults}))
    arguments = ("The cat", "--tokens", 5)
    assert nas("generate", folder, *arguments).stdout == nas("generate", llama_folder, *arguments).stdout


def test_defaults_that_a_model_of_ours_can_not_follow_are_named(
    nas: Nas, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cache_implementation": "static"}))
    result = nas("generate", folder, "The cat", "--tokens", 5)
    assert result.exit_code == 2
    assert "cache_implementation = 'static': the model keeps its own cache" in str(result.exception)
