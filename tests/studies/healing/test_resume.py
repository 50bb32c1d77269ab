"""A healing that is interrupted anywhere ends, bit for bit, like one that ran through."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from studies.data import TokenData
from studies.healing.heal import heal
from studies.healing.healer import Healer, state_folder
from studies.healing.saved import Saved
from studies.healing.teacher import Teacher
from studies.healing.watch import Watch
from studies.training.errors import TrainingFailed
from surgery.apply.execute import execute
from surgery.apply.plan import Plan
from surgery.apply.source import SourceModel
from surgery.config.problems import UserError
from surgery.model import HybridLM
from tests.studies.healing.conftest import SETTINGS

SHORT = replace(SETTINGS, tokens=4096, align_tokens=2048, eval_every=3)


class Interruption(Exception):
    """Stands for a killed process."""


def numbers(healing: Any) -> dict[str, Any]:
    """The report without times and memory."""
    data = healing.to_dict()
    for name in ("aligned", "after"):
        for key in ("seconds", "train_tokens_per_s", "peak_memory"):
            del data[name][key]
    return dict(data)


@pytest.mark.parametrize(
    ("seed", "optimizer"),
    [(0, "adamw"), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, "adamw"), (2, "muon")))],
)
def test_five_interruptions_change_nothing(
    source: SourceModel, planned: Plan, teacher: Teacher, text: TokenData, tmp_path: Path, seed: int,
    optimizer: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = replace(SHORT, optimizer=optimizer)
    whole = execute(source, planned)[0]
    wanted = heal(whole, planned, teacher, text, settings)
    measure, measured = teacher.divergence, []
    monkeypatch.setattr(teacher, "divergence", lambda *args: (measured.append(args), measure(*args))[1])
    rng = random.Random(seed)
    notes: list[str] = []

    def attempt(stop_after: int) -> Any:
        left = [stop_after]

        def on_step(stage: str, now: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Interruption

        model = execute(source, planned)[0]
        torch.manual_seed(rng.randrange(1000))  # of the process, which must not matter
        with Saved(tmp_path / "state", {"a": 1}) as saved:
            watch = Watch(on_step=on_step, on_note=notes.append)
            return model, heal(model, planned, teacher, text, settings, saved=saved, watch=watch)

    for first in (1, 0, 0, 0, 0):  # an attempt without a finished step would leave nothing to resume
        with pytest.raises(Interruption):
            attempt(max(first, rng.randrange(3)))
    model, result = attempt(100)
    assert notes
    assert numbers(result) == numbers(wanted)
    assert len(measured) == len(wanted.kl)  # each of them once
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_the_best_weights_survive_an_interruption(
    source: SourceModel, planned: Plan, teacher: Teacher, text: TokenData, tmp_path: Path
) -> None:
    """A learning rate that ruins the model after its first evaluation."""
    settings = replace(SETTINGS, tokens=4096, lr=0.03, lr_new=0.03, eval_every=1, loss="kl")
    whole = execute(source, planned)[0]
    wanted = heal(whole, planned, teacher, text, settings)
    model = execute(source, planned)[0]
    with Saved(tmp_path / "state", {}) as saved, pytest.raises(Interruption):
        heal(model, planned, teacher, text, settings, saved=saved, watch=Watch(on_step=_stops_at(7)))
    with Saved(tmp_path / "state", {}) as saved:
        model = execute(source, planned)[0]
        result = heal(model, planned, teacher, text, settings, saved=saved)
    assert (result.kept, result.step) == (wanted.kept, wanted.step)
    assert wanted.step < 8
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def _stops_at(step: int) -> Any:
    def on_step(stage: str, now: Any) -> None:
        if now.step == step:
            raise Interruption

    return on_step


def test_another_recipe_starts_anew(tmp_path: Path) -> None:
    with Saved(tmp_path / "state", {"lr": 1}) as saved:
        saved.checkpoint("healed").write_text("x")
    with Saved(tmp_path / "state", {"lr": 1}) as saved:
        assert saved.checkpoint("healed").is_file()
        with pytest.raises(UserError, match="another process"), Saved(tmp_path / "state", {"lr": 1}):
            pass
    with Saved(tmp_path / "state", {"lr": 2}) as saved:
        assert not saved.checkpoint("healed").is_file()
        (saved.path / "key.json").write_text("{")
    with Saved(tmp_path / "state", {"lr": 2}):
        pass


def test_the_key_is_everything_that_matters(
    source: SourceModel, planned: Plan, text: TokenData, tmp_path: Path
) -> None:
    def key(**changes: Any) -> Any:
        options = {"planned": planned, "settings": SHORT, "calibration": ["text"], **changes}
        healer = Healer(
            source, options.pop("planned"), text, options.pop("settings"), device=torch.device("cpu"),
            out=tmp_path / "out", **options,
        )  # fmt: skip
        assert healer.saved is not None
        return healer.saved.key

    assert key() == key()
    others = [key(settings=replace(SHORT, lr=1e-5)), key(calibration=["texts"]), key(calibration=None)]
    assert all(other != key() for other in others)
    assert state_folder(tmp_path / "out") == tmp_path / ".out.healing"


def test_a_model_that_is_only_measured_keeps_nothing(
    source: SourceModel, planned: Plan, text: TokenData, rewritten: HybridLM, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, tokens=0)
    with Healer(source, planned, text, settings, device=torch.device("cpu"), out=tmp_path / "out") as healer:
        healer(rewritten)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [TrainingFailed("exploded"), UserError("no text")])
def test_what_can_not_be_resumed_is_removed(tmp_path: Path, error: Exception) -> None:
    saved = Saved(tmp_path / "state", {})
    with saved:
        if isinstance(error, TrainingFailed):
            saved.checkpoint("healed").write_text("x")
    with pytest.raises(type(error)), saved:
        raise error
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_user_error(
    planned: Plan, teacher: Teacher, text: TokenData, rewritten: HybridLM, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(*arguments: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with (
        pytest.raises(UserError, match="can't be written: torch could not write it"),
        Saved(tmp_path / "state", {}) as saved,
    ):
        heal(rewritten, planned, teacher, text, SHORT, saved=saved)
    assert not list(tmp_path.iterdir())
