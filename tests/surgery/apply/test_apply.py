"""The whole surgery on a small checkpoint: folder, card, verification, and nothing where it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from surgery.apply import pipeline, verify
from surgery.apply.calibrate import as_tokens
from surgery.apply.execute import execute, rewrite
from surgery.apply.pipeline import apply
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.config.problems import UserError
from surgery.hf.modeling import NasForCausalLM
from surgery.model import HybridLM

HDPL = [{"match": ["gate", "up", "o"], "operator": "hdpl", "blocks": 4, "rank": 8, "kl": "mean"}]


def words(count: int = 6, length: int = 40) -> list[torch.Tensor]:
    return [torch.randint(61, (length,)) for _ in range(count)]


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what happens around verification: a fresh process takes seconds."""
    result = verify.Verification("float32", 0.0, 1.0, 1, 1, False, "0", "0")
    verifier = SimpleNamespace(verify=lambda *_, **__: result)
    monkeypatch.setattr(pipeline, "Verifier", lambda *_, **__: nullcontext(verifier))


def test_from_checkpoint_to_verified_folder(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = checkpoint("llama", tie_word_embeddings=True)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5], "temperature": 0.5}))
    seen: list[tuple[str, int, int]] = []
    report = apply(
        folder,
        {"projections": HDPL, "loop": {"count": 2}},
        tmp_path / "out",
        calibration=words(),
        progress=lambda *step: seen.append(step),
    )
    assert report.verification is not None
    assert report.verification.passed
    assert report.verification.max_logit_difference <= 1e-5
    assert report.verification.new_tokens == report.verification.equal_tokens == 64
    assert len(report.fits) == 12
    assert all(fit.output_error is not None and 0 < fit.output_error < 1 for fit in report.fits)
    assert ("fitting", 12, 12) in seen
    assert json.loads(json.dumps(report.to_dict()))["verification"]["passed"]
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (str(report.plan.after), "output error", "64 of 64", "before | after", "source-llama"):
        assert text in card
    assert str(tmp_path) not in card
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [2, 5]
    assert settings["bos_token_id"] == 1
    model = NasForCausalLM.from_pretrained(tmp_path / "out")
    assert model.model.architecture == report.plan.after


def test_the_source_in_the_folder_alone_gives_the_same_model(
    checkpoint: Callable[..., Path], tmp_path: Path, unverified: None
) -> None:
    source = read_source(checkpoint("qwen3"))
    drawn = plan(source, {"projections": HDPL})
    model, fits = rewrite(source, drawn)
    pipeline.publish(model, source, drawn, fits, tmp_path / "out")
    assert verify.verify(tmp_path / "out", model, remote_code=True).passed


def test_a_dry_run_writes_nothing(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = checkpoint("mistral", sliding_window=None)
    report = apply(folder, {"projections": HDPL}, tmp_path / "out", dry_run=True)
    assert report.out is None
    assert report.plan.count("fitted") == 12 * 6
    assert [path.name for path in tmp_path.iterdir()] == ["source-mistral"]


def test_places_that_can_not_be_written_are_refused_first(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = checkpoint()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("x")
    for dry_run in (True, False):
        with pytest.raises(UserError, match="not empty"):
            apply(folder, {}, tmp_path / "taken", dry_run=dry_run)
        with pytest.raises(UserError, match="the model itself"):
            apply(folder, {}, folder, overwrite=True, dry_run=dry_run)


def test_too_small_a_disk_is_told_before_the_work(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint()
    monkeypatch.setattr("surgery.hf.staging.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="are free"):
        apply(folder, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_verify_is_not_kept(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_logits(verifier: verify.Verifier) -> dict[str, Any]:
        (scratch,) = verifier.folder.glob(".verify-*")
        save_file({"logits": torch.zeros(2, 32, 61)}, scratch / "logits.safetensors")
        return {"equal_tokens": 64, "transformers": "0", "torch": "0"}

    monkeypatch.setattr(verify.Verifier, "_answer", other_logits)
    with pytest.raises(UserError, match="not the planned one"):
        apply(checkpoint(), {}, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source-llama"]


def test_a_folder_that_can_not_be_loaded_does_not_verify(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = read_source(checkpoint())
    model, _ = rewrite(source, plan(source, {}))
    (tmp_path / "broken").mkdir()
    with pytest.raises(UserError, match="can't be loaded"):
        verify.verify(tmp_path / "broken", model)


def test_healing_stands_between_fitting_and_writing(
    checkpoint: Callable[..., Path], tmp_path: Path, unverified: None
) -> None:
    def heal(model: HybridLM) -> str:
        model.train()
        with torch.no_grad():
            model.norm.weight.fill_(0.25)
        return "## Healing\n\nwith care"

    apply(checkpoint(), {"projections": HDPL}, tmp_path / "out", heal=heal)
    loaded = NasForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.model.norm.weight, torch.full((32,), 0.25))
    assert "with care" in (tmp_path / "out" / "README.md").read_text()


def test_overwriting_replaces_the_old_model(
    checkpoint: Callable[..., Path], tmp_path: Path, unverified: None
) -> None:
    folder = checkpoint()
    apply(folder, {}, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    apply(folder, {"projections": HDPL}, tmp_path / "out", overwrite=True)
    assert NasForCausalLM.from_pretrained(tmp_path / "out").model.architecture.rules


def test_activations_make_a_better_model(checkpoint: Callable[..., Path]) -> None:
    """On text like that of calibration, fitting outputs beats fitting weights."""
    source = read_source(checkpoint(num_hidden_layers=2))
    dense, _ = execute(source, plan(source, {}))
    drawn = plan(source, {"projections": HDPL})
    text = [torch.randint(8, (200,)) for _ in range(8)]  # few words: a narrow part of the space
    held_out = torch.randint(8, (4, 100))
    wanted = dense(held_out).detach()
    distances = []
    for calibration in (None, text):
        fitted, _ = execute(source, drawn, calibration=calibration)
        distances.append(float((fitted(held_out).detach() - wanted).norm() / wanted.norm()))
    assert distances[1] < 0.8 * distances[0]


def test_calibration_is_checked(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    assert [len(ids) for ids in as_tokens([[1] * 500, [2]], folder, 61, 200)] == [200, 200, 100]
    with pytest.raises(UserError, match="token 61"):
        as_tokens([[3, 61]], folder, 61, 200)
    with pytest.raises(UserError, match="no text"):
        as_tokens([], folder, 61, 200)
    with pytest.raises(UserError, match="tokenizer"):
        as_tokens(["some text"], folder, 61, 200)
