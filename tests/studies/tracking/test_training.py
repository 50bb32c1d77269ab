"""A training and a healing in a tracker, with held-out losses at the steps that they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from studies.tracking.choice import Choice
from studies.tracking.training import TrainingTracker, track_training, tracked
from studies.training.loop import Progress
from studies.training.request import TrainRequest
from surgery.architecture import Architecture
from tests.studies.conftest import TokenData

from .recorded import Memory

BOARD = [Choice("tensorboard")]
ARCHITECTURE = {
    "backbone": {
        "vocab_size": 512, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32, "tie_embeddings": True,
    }
}  # fmt: skip


def test_a_training_is_a_run_with_the_same_numbers_as_its_curve(
    tokens: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory.replacing(monkeypatch)
    request = TrainRequest(
        Architecture.from_dict(ARCHITECTURE), tmp_path / "model", data=str(tokens.folder), tokens=16384,
        seq_len=32, batch_tokens=512, eval_tokens=1024, threads=1,
    )  # fmt: skip
    steps: list[int] = []
    with tracked(BOARD, tmp_path, pytest.fail) as tracker:
        result = track_training(
            tracker, request, lambda on_step: request.run(tokens, on_step), lambda now: steps.append(now.step)
        )
    run = memory.runs["model"]
    curve = [json.loads(line) for line in (tmp_path / "model" / "curve.jsonl").read_text().splitlines()]
    assert [step for step, _ in run.points] == steps
    for name in ("loss", "val_loss"):
        ours = [(step, values[name]) for step, values in run.points if name in values]
        assert ours == [(point["step"], point[name]) for point in curve if name in point]
    assert len([values for _, values in run.points if "val_loss" in values]) == 2
    assert run.states == ["trained"]
    assert run.results["val_loss"] == result.val_loss
    assert run.settings["lr"] == 1e-3
    assert memory.closed == 1


def test_a_training_that_fails_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory.replacing(monkeypatch)

    def diverge(tracker: TrainingTracker) -> None:
        tracker.start("model", {})
        tracker.step("model", Progress(1, 9, 512, 6.0, 1.0))
        raise FloatingPointError

    with pytest.raises(FloatingPointError), tracked(BOARD, tmp_path, pytest.fail) as tracker:
        diverge(tracker)
    assert memory.runs["model"].states == ["failed"]
    assert [step for step, _ in memory.runs["model"].points] == [1]


@pytest.mark.parametrize("method", ["start", "close"])
def test_a_tracker_that_fails_ends_no_training(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory.replacing(monkeypatch)
    monkeypatch.setattr(memory, method, _fail)
    warnings: list[str] = []
    with tracked(BOARD, tmp_path, warnings.append) as tracker:
        tracker.start("model", {})
        tracker.step("model", Progress(1, 9, 512, 6.0, 1.0))
        tracker.finish("model", "trained", {})
    assert warnings == ["tensorboard failed and tracks no longer, while the rest continues: disk full"]


def _fail(*values: object) -> Callable[[], None]:
    raise OSError("disk full")
