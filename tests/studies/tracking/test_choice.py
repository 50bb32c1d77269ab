"""Values that `--track` accepts, and the folders of local stores."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from studies.tracking.choice import KINDS, Choice, Kind, choose
from surgery.config.problems import UserError


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS.values():
        if kind.variable:
            monkeypatch.delenv(kind.variable, raising=False)


def test_all_mistakes_come_in_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kind, "installed", property(lambda kind: kind.package == "wandb"))
    with pytest.raises(UserError) as caught:
        choose(["tensorbord", "mlflow", "wandb=", "wandb"])
    assert [(problem.value, problem.hint) for problem in caught.value.problems] == [
        ("tensorbord", 'did you mean "tensorboard"?'),
        ("mlflow", 'pip install "nas-cli[mlflow]"'),
        ("wandb=", "such as wandb=FOLDER"),
    ]
    assert choose(["wandb", "wandb=/there", "wandb"]) == [Choice("wandb"), Choice("wandb", "/there")]


def test_a_folder_of_the_name_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store_of_runs").mkdir()  # as W&B leaves one
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert not Kind("store_of_runs", "x", "").installed
    assert Kind("json", "x", "").installed


def test_the_store_is_in_the_folder_or_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Choice("mlflow").store(tmp_path) == str(tmp_path / "mlflow")
    assert Choice("mlflow").view(tmp_path).endswith(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ml.example")
    assert Choice("mlflow").store(tmp_path) == Choice("mlflow").view(tmp_path) == "https://ml.example"
    assert Choice("mlflow", str(tmp_path / "own")).store(tmp_path) == str(tmp_path / "own")


def test_every_tracker_has_its_extra_and_its_file() -> None:
    import tomllib

    root = Path(__file__).resolve().parents[3]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, kind in KINDS.items():
        assert extras[name][0].startswith(f"{kind.package}>=")
        assert (root / "studies" / "tracking" / f"{name}.py").is_file()
