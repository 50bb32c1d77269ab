"""The control: the original model, trained likewise, once for each text and recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from studies.data import TokenData
from studies.healing.control import control_loss, controls_home
from studies.healing.heal import heal
from studies.healing.teacher import Teacher, original
from studies.healing.watch import Watch
from surgery.apply.plan import plan
from surgery.apply.source import SourceModel
from tests.studies.healing.conftest import SETTINGS

RECIPE = replace(SETTINGS, tokens=2048, align_tokens=2048, lr_new=1e-2, freeze=("*.mu.*", "embed.*"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))


def test_it_is_the_original_trained_on_as_many_tokens(
    source: SourceModel, teacher: Teacher, text: TokenData
) -> None:
    measured = control_loss(teacher, text, RECIPE)
    model, dense = original(source), plan(source, source.architecture)
    plain = replace(RECIPE, tokens=4096, align_tokens=0, lr_new=None, freeze=("embed.*",))
    wanted = heal(model, dense, teacher, text, plain)
    assert wanted.after is not None
    assert measured.val_loss == wanted.after.val_loss < wanted.original.val_loss
    assert measured.kl == wanted.kl["healed"] > 0


def test_it_is_trained_once(teacher: Teacher, text: TokenData) -> None:
    stages: list[str] = []
    notes: list[str] = []
    watch = Watch(on_step=lambda stage, now: stages.append(stage), on_note=notes.append)
    first = control_loss(teacher, text, RECIPE, watch)
    assert set(stages) == {"control"}
    stages.clear()
    assert control_loss(teacher, text, RECIPE, watch) == first
    assert not stages
    assert "known from an earlier run" in notes[-1]
    assert len(list(controls_home().iterdir())) == 1  # the state of the training is gone
    other = control_loss(teacher, text, replace(RECIPE, lr=1e-4), watch)
    assert stages
    assert other.val_loss != first.val_loss
