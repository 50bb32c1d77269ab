"""A model folder is written whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from surgery.architecture import Architecture
from surgery.config.problems import UserError
from surgery.hf import export, weights
from surgery.hf.export import save
from surgery.hf.modeling import NasForCausalLM
from surgery.hf.staging import staged
from tests.models import architecture, build


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 768 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_what_a_folder_holds(tmp_path: Path) -> None:
    arch = architecture("F", projections=[{"match": "up", "operator": "hdpl", "blocks": 2, "rank": 64}])
    out = save(build(arch), tmp_path / "deep" / "model", text="## More\n\nabout it", title="A model")
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "model.safetensors", "config.json", "generation_config.json", "architecture.yaml", "README.md",
        "modeling_nas.py",
    }  # fmt: skip
    assert Architecture.from_yaml(out / "architecture.yaml") == arch
    card = (out / "README.md").read_text()
    for text in (
        "# A model",
        "about it",
        arch.hash,
        "kl_weight has no effect",
        "llama.cpp",
        "trust_remote_code",
    ):
        assert text in card
    config = json.loads((out / "config.json").read_text())
    assert config["layer_types"] == ["full_attention"] * 2
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_nas.NasForCausalLM"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


def test_the_tokenizer_and_its_special_tokens_come_along(shared_data: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    import surgery  # noqa: F401

    source = shared_data / "smollm2-tokenizer"
    model = build(architecture("F", vocab_size=49152))
    save(
        model,
        tmp_path / "model",
        tokenizer_dir=source,
        generation_config={"temperature": 0.7, "do_sample": True},
    )
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (
        loaded("Hello world")["input_ids"]
        == AutoTokenizer.from_pretrained(source)("Hello world")["input_ids"]
    )
    settings = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == loaded.eos_token_id
    assert settings["temperature"] == 0.7
    with pytest.raises(UserError, match="no tokenizer"):
        save(model, tmp_path / "other", tokenizer_dir=tmp_path)
    assert not (tmp_path / "other").exists()


def test_large_models_are_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHARD_BYTES", 10_000)
    model = build(architecture("F", tie_embeddings=True))
    save(model, tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert "model.head.weight" not in index["weight_map"]
    ids = torch.randint(37, (1, 7))
    loaded = NasForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded(ids).logits, model.head(model(ids)))


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    first, second = build(architecture("F")), build(architecture("F", num_layers=1))
    out = tmp_path / "model"
    out.mkdir()
    save(first, out)  # an empty folder is as good as none
    before = load_file(out / "model.safetensors")
    with pytest.raises(UserError, match="not empty"):
        save(second, out)
    assert load_file(out / "model.safetensors").keys() == before.keys()
    save(second, out, overwrite=True)
    assert "model.layers.1.ffn.up.weight" not in load_file(out / "model.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no model"):
        save(second, tmp_path / "other", overwrite=True)
    with pytest.raises(UserError, match="not a folder"):
        save(second, tmp_path / "other" / "thesis.txt", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.txt", "mine"),
        ("train.py", "mine"),
        ("model_best.safetensors", "mine"),
        ("config.json", '{"model_type": "llama"}'),
        ("config.json", "[1, 2]"),
        ("config.json", "{"),
    ],
)
def test_only_a_model_that_nas_wrote_is_overwritten(tmp_path: Path, name: str, text: str) -> None:
    out = tmp_path / "model"
    save(build(architecture("F")), out)
    (out / name).write_text(text)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match="nas did not write"):
        save(build(architecture("F", num_layers=1)), out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folders_made_for_a_model_stay_where_others_use_them(tmp_path: Path) -> None:
    def fail() -> None:
        with staged(tmp_path / "a" / "b" / "model") as folder:
            (folder / "half").write_text("x")
            (tmp_path / "a" / "theirs").write_text("written meanwhile")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="disk is full"):
        fail()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["theirs"]


def test_a_full_disk_leaves_nothing(full_disk: Path) -> None:
    model = build(architecture("F", vocab_size=5000))
    for target in (full_disk / "model", full_disk / "deep" / "model"):
        with pytest.raises(UserError, match="disk is full"):
            save(model, target)
        assert list(full_disk.iterdir()) == []
    save(build(architecture("F", num_layers=1)), full_disk / "model")  # a small one fits


def test_a_read_only_place_is_told(tmp_path: Path) -> None:
    model = build(architecture("F"))
    if os.geteuid() == 0:  # to whom permissions do not apply: a file system of its own
        folder = tmp_path / "frozen"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a read-only tmpfs")
        try:
            with pytest.raises(UserError, match="can't write"):
                save(model, folder / "model")
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    else:
        folder = tmp_path / "frozen"
        folder.mkdir(mode=0o555)
        with pytest.raises(UserError, match="can't write"):
            save(model, folder / "model")
    assert list(folder.iterdir()) == []


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(build(architecture("F")), tmp_path / "deep" / "model")
    assert list(tmp_path.iterdir()) == []
