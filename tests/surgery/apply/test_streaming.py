"""A surgery that carries tensors holds few of them at a time, and writes what it writes out of memory."""

from __future__ import annotations

import json
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from surgery.apply import pipeline, verify
from surgery.apply.execute import execute
from surgery.apply.pipeline import apply, publish
from surgery.apply.reload import release_pages
from surgery.apply.source import read_source
from surgery.apply.weights import TensorInfo
from surgery.hf.lazy import LazyModel
from tests.surgery.apply.conftest import random_model
from tests.surgery.apply.test_carry import QWEN3_5

WINDOWS = {"layout": "FW", "mixers": {"W": {"window": 8}}}
HDPL = [{"match": ["gate", "up", "o"], "operator": "hdpl", "blocks": 4, "rank": 8, "kl": "mean"}]
LAYER = 9  # tensors of a layer of Llama


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint of 12 layers in several files."""
    folder = tmp_path / "source"
    model = random_model("llama", num_hidden_layers=12).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


@pytest.fixture
def half_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's half of the verification: the fresh one takes seconds."""

    def half(model: LazyModel) -> verify.Verification:
        model.logits(torch.arange(8)[None], torch.float32)
        return verify.Verification("float32", 0.0, 1.0, 1, 1, False, "0", "0")

    monkeypatch.setattr(pipeline, "Verifier", lambda *_, **__: nullcontext(SimpleNamespace(verify=half)))


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("stock", [True, False])
def test_few_tensors_are_held_at_a_time(
    sharded: Path, tmp_path: Path, half_verified: None, monkeypatch: pytest.MonkeyPatch, stock: bool
) -> None:
    held: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most, read = 0, TensorInfo.read

    def counted(info: TensorInfo, opened: Any) -> Tensor:
        nonlocal most
        tensor = read(info, opened)
        held.add(tensor)
        most = max(most, len(held))
        return tensor

    monkeypatch.setattr(TensorInfo, "read", counted)
    apply(sharded, WINDOWS, tmp_path / "out", stock=stock)
    assert 0 < most <= LAYER + 2


@pytest.mark.parametrize("stock", [True, False])
def test_a_carry_writes_what_the_model_in_memory_does(
    sharded: Path, tmp_path: Path, half_verified: None, stock: bool
) -> None:
    report = apply(sharded, WINDOWS, tmp_path / "carried", stock=stock)
    source = read_source(sharded)
    model, fits = execute(source, report.plan)
    publish(LazyModel.of(model), source, report.plan, fits, tmp_path / "memory")
    for file in (tmp_path / "memory").iterdir():
        if file.name != "README.md":  # which names the folder
            assert (tmp_path / "carried" / file.name).read_bytes() == file.read_bytes()
    original = tensors(sharded)
    written = tensors(tmp_path / "carried")
    assert len(written) == len(original)
    if stock:
        assert all(torch.equal(tensor, original[name]) for name, tensor in written.items())


def test_shards_are_no_larger_than_the_sources(sharded: Path, tmp_path: Path, half_verified: None) -> None:
    largest = max(file.stat().st_size for file in sharded.glob("*.safetensors"))
    apply(sharded, {}, tmp_path / "out")
    files = {file.name: file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == files.keys()
    assert max(files.values()) < 1.2 * largest  # the limit is of tensors; these files have long headers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options", "design"),
    [
        ("llama", {}, {}),
        ("qwen3_5_text", QWEN3_5, {}),  # norms in float32 beside it, as differences from one
        ("llama", {"tie_word_embeddings": True}, {"projections": HDPL, "loop": {"count": 2}}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_large_model_is_mapped_and_compared_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    family: str, options: dict[str, Any], design: dict[str, Any], dtype: torch.dtype,
) -> None:  # fmt: skip
    random_model(family, **options).to(dtype).save_pretrained(tmp_path / "source")
    monkeypatch.setattr(verify, "SMALL", 0)
    verification = apply(tmp_path / "source", design, tmp_path / "out").verification
    assert verification is not None
    assert verification.new_tokens == verification.equal_tokens == 2
    assert verification.max_logit_difference <= 1e-5 * verification.max_logit


def test_released_pages_are_read_again(tmp_path: Path) -> None:
    values = torch.randn(300, 100)
    save_file({"x": values}, tmp_path / "model.safetensors")
    mapped = load_file(tmp_path / "model.safetensors")["x"]
    assert torch.equal(mapped, values)
    release_pages(str(tmp_path))
    assert torch.equal(mapped, values)
