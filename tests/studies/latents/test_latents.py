"""Latents over texts, the difference of two texts, and the training of offsets, on a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from studies.data import TokenData
from studies.evaluation.model_folder import Checkpoint, load
from studies.evaluation.text import read_text
from studies.latents.contrast import Contrast
from studies.latents.reading import Reading, read_latents
from studies.latents.training import AdapterRequest, train_offsets
from studies.training.pretrain import pretrain
from studies.training.settings import TrainSettings
from studies.training.validation import evaluate
from surgery.architecture import Architecture
from surgery.latents import Statistics, Steering, load_adapter, recording, steered
from surgery.model import HybridLM

ARCHITECTURE: dict[str, Any] = {
    "backbone": {
        "vocab_size": 512,
        "dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "ffn_dim": 32,
        "tie_embeddings": True,
    },
    "layout": "FF",
    "projections": [{"match": ["q", "gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 8, "kl": "mean"}],
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tokens: TokenData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents") / "model"
    settings = TrainSettings(tokens=8192, seq_len=32, batch_tokens=512, lr=1e-2, eval_tokens=1024)
    pretrain(Architecture.from_dict(ARCHITECTURE), tokens, settings, out, seed=0, device=CPU)
    return out


@pytest.fixture
def checkpoint(folder: Path) -> Checkpoint:
    return load(folder, CPU)


def texts(folder: Path) -> tuple[Path, Path]:
    for name, text in (("digits", "1 2 3 4 5 6 7 8 9 0\n"), ("words", "the list of all names\n")):
        (folder / f"{name}.txt").write_text(text * 40)
    return folder / "digits.txt", folder / "words.txt"


def test_a_text_is_read_to_its_end(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Against one pass for each window, all of whose tokens but the last are inputs."""
    path, _ = texts(tmp_path)
    reading = read_latents(checkpoint, read_text(str(path)), seq_len=32)
    ids = [checkpoint.tokenizer.eos_token_id, *checkpoint.tokenizer(path.read_text()).input_ids]
    assert reading.tokens == len(ids) - 1
    with torch.no_grad(), recording(checkpoint.model) as moments:
        for start in range(0, len(ids) - 1, 32):
            checkpoint.model(torch.tensor([ids[start : min(start + 32, len(ids) - 1)]]))
    for item in reading.statistics:
        expected = Statistics.of(item.latent, moments[item.latent])
        torch.testing.assert_close(item.mean, expected.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(item.kl, expected.kl, rtol=1e-4, atol=1e-5)
        assert item.effective_rank == pytest.approx(expected.effective_rank, rel=1e-3)
    with pytest.raises(ValueError, match="exceeds the context"):
        read_latents(checkpoint, read_text(str(path)), seq_len=10**6)


def test_the_contrast_of_two_texts_moves_one_onto_the_other(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """In the first layer's queries, whose inputs no change before them moves, the means become equal."""
    readings = [read_latents(checkpoint, read_text(str(path)), seq_len=32) for path in texts(tmp_path)]
    contrast = Contrast(*readings)
    adapter = contrast.adapter(checkpoint, times=1.0, layers=[0])
    assert {latent.layer for latent in adapter.offsets} == {0}

    def first(reading: Reading) -> Statistics:
        return reading.statistics[0]

    expected = first(readings[0]).mean - first(readings[1]).mean
    torch.testing.assert_close(adapter.offsets[first(readings[0]).latent].double(), expected)
    pooled = (first(readings[0]).variance + first(readings[1]).variance) / 2
    assert contrast.distances[0] == pytest.approx(float((expected**2 / pooled).mean().sqrt()))
    with steered(checkpoint.model, Steering.of(adapter)):
        pass  # it is of this model


def test_training_learns_offsets_and_nothing_else(
    checkpoint: Checkpoint, tokens: TokenData, tmp_path: Path
) -> None:
    model: HybridLM = checkpoint.model.model
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    request = AdapterRequest(
        tmp_path / "adapter", tokens=16384, seq_len=32, batch_tokens=512, lr=3e-2, eval_tokens=1024
    )
    trained = request.run(checkpoint, tokens)
    assert trained.parameters == 2 * 3 * 8
    assert trained.after.val_loss < trained.before.val_loss - 0.001
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    adapter = load_adapter(tmp_path / "adapter")
    assert adapter.made["before"]["val_loss"] == trained.before.val_loss

    def held_out() -> float:
        options: dict[str, Any] = {"seq_len": 32, "max_tokens": 1024, "batch_tokens": 512, "device": CPU}
        return evaluate(model, tokens, **options).val_loss

    with steered(checkpoint.model, Steering.of(adapter)):
        assert held_out() == pytest.approx(trained.after.val_loss, abs=1e-5)
    assert held_out() == pytest.approx(trained.before.val_loss, abs=1e-6)


def test_offsets_that_help_nothing_are_zero(checkpoint: Checkpoint, tokens: TokenData) -> None:
    settings = TrainSettings(
        tokens=512, seq_len=32, batch_tokens=512, lr=50.0, warmup=0.0, weight_decay=0.0, eval_tokens=1024
    )
    trained = train_offsets(checkpoint.model.model, tokens, settings, seed=0, device=CPU)
    assert trained.step == 0
    assert trained.after == trained.before
    assert not any(offset.any() for offset in trained.offsets.values())
