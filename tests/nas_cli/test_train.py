"""`nas train`: a real, small training run into a folder that transformers loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from surgery.architecture import Architecture

Nas = Callable[..., Result]
SMALL = ("--tokens", "4k", "--seq-len", "32", "--batch-tokens", "512", "--eval-tokens", "2048")


def test_a_trained_folder_loads_and_says_what_it_is(
    nas: Nas, architecture_file: Path, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "model"
    result = nas("train", architecture_file, "--data", prepared, *SMALL, "--seed", 3, "-o", out, "--json")
    data = json.loads(result.stdout)
    assert data["tokens"] == 3584
    assert data["hash"] == Architecture.from_yaml(architecture_file).hash
    assert {"config.json", "model.safetensors", "tokenizer.json", "curve.jsonl", "training.json"} <= {
        path.name for path in out.iterdir()
    }
    card = (out / "README.md").read_text()
    assert f"{data['val_loss']:.4f} nats/token, {data['val_bpb']:.4f} bits/byte" in card
    record = json.loads((out / "training.json").read_text())
    assert record["seed"] == 3
    assert record["result"]["val_loss"] == data["val_loss"]
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in curve if "loss" in point] == list(range(1, 8))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(out)("some text").input_ids
    assert AutoModelForCausalLM.from_pretrained(out).config.architecture["loop"] == {"count": 2}


def test_a_plain_model_is_written_as_llama_and_can_be_rewritten(
    nas: Nas, architecture_file: Path, prepared: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text(architecture_file.read_text().partition("projections:")[0])
    folder, ours = tmp_path / "model", tmp_path / "ours"
    for out, export in ((folder, "auto"), (ours, "nas")):
        result = nas(
            "train", plain, "--data", prepared, *SMALL[2:], "--tokens", "1k", "-o", out, "--export", export
        )
        assert result.exit_code == 0, result.output
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    from surgery.apply.source import read_source
    from surgery.hf.modeling import NasForCausalLM

    ids = torch.arange(20)[None]
    one, other = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, ours))
    assert isinstance(one, LlamaForCausalLM)
    assert isinstance(other, NasForCausalLM)
    torch.testing.assert_close(one(ids).logits, other(ids).logits, rtol=0, atol=1e-5)
    assert read_source(folder).architecture == Architecture.from_yaml(plain)
    assert 'AutoModelForCausalLM.from_pretrained("path/to/this/folder")' in (folder / "README.md").read_text()
    assert "import surgery" not in (folder / "README.md").read_text()


def test_the_same_seed_gives_the_same_weights(
    nas: Nas, architecture_file: Path, prepared: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("one", "two", "other")]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        assert nas("train", architecture_file, "--data", prepared, *SMALL, "--seed", seed, "-o", out)
    one, two, other = ((out / "model.safetensors").read_bytes() for out in outs)
    assert one == two != other


def test_an_exploding_run_exits_1_and_leaves_nothing(
    nas: Nas, architecture_file: Path, prepared: Path, tmp_path: Path
) -> None:
    result = nas(
        "train", architecture_file, "--data", prepared, *SMALL[2:], "--tokens", "40k", "--lr", 1, "--warmup",
        0, "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "training failed: the" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--tokens", "100"), "less than one step"),
        (("--seq-len", "33"), "multiple of the sequence length"),
        (("--lr-rule", "rolls"), 'Did you mean "roles"'),
        (("--optimizer", "moun"), "not one of"),
        (("--device", "cuda:77"), "not available"),
        (("--data", "nowhere.jsonl"), "no such file"),
    ],
)
def test_mistakes_are_told_before_training(
    nas: Nas, architecture_file: Path, prepared: Path, tmp_path: Path, changed: tuple[str, str], said: str
) -> None:
    out = tmp_path / "out"
    result = nas("train", architecture_file, "--data", prepared, *SMALL, *changed, "-o", out)
    assert result.exit_code == 2
    assert said in str(result.exception) + result.output
    assert not out.exists()


def test_a_model_is_only_replaced_when_asked(
    nas: Nas, architecture_file: Path, prepared: Path, model_folder: Path, tmp_path: Path
) -> None:
    arguments = ("train", architecture_file, "--data", prepared, *SMALL, "-o")
    assert "not empty" in str(nas(*arguments, model_folder).exception)
    (tmp_path / "notes.txt").write_text("mine")
    assert "no model" in str(nas(*arguments, tmp_path, "--overwrite").exception)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(
    nas: Nas, text_file: Path, architecture_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))
    corpus = ("--data", text_file, "--tokenizer", "bpe:400")
    result = nas("train", architecture_file, *corpus, *SMALL, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "vocab_size" in str(result.exception)


def test_ctrl_c_exits_130_and_leaves_nothing(architecture_file: Path, prepared: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "nas_cli.main", "train", str(architecture_file), "--data", str(prepared),
        "-o", str(tmp_path / "out"), "--tokens", "1B", "--seq-len", "32", "--batch-tokens", "512",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not any(path.stat().st_size for path in tmp_path.glob(".out*.partial/curve.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)  # until it trains
    os.kill(process.pid, signal.SIGINT)
    _, text = process.communicate()
    assert process.returncode == 130
    assert "Nothing was written" in text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []
