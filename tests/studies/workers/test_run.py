"""Searches by a Python program, and workers that join alone, leave notes and graphs as `nas search` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from search_spaces import SearchSpace
from studies.data import TokenData
from studies.reporting.artifacts import artifact_folder
from studies.storage.optuna_access import study_system_attrs
from studies.study import Study
from studies.workers.run import search
from tests.studies.conftest import MakeStudy


def annotated(study: Study) -> bool:
    """Return whether an opened study has notes, graphs and artifacts of all trials."""
    names = {key.split(":")[-1] for key in study_system_attrs(study.inner) if key.startswith("nas:")}
    trials = {str(record.number) for record in study.records() if record.counted}
    return {"study", "nas-1-front-0", *trials} <= names and any(artifact_folder(study).iterdir())


@pytest.fixture
def nas(cli: object) -> Callable[..., Result]:
    from typer.testing import CliRunner

    return lambda *args: CliRunner().invoke(cli, [str(arg) for arg in args])  # type: ignore[arg-type]


@pytest.mark.slow  # worker processes load PyTorch
def test_a_search_in_python(space: SearchSpace, tokens: TokenData, tmp_path: Path) -> None:
    study = search(
        space, name="study", trials=2, data=str(tokens.folder), runs=tmp_path / "runs", device="cpu"
    )
    assert annotated(Study.open(str(study.folder)))


def test_a_worker_alone(make_study: MakeStudy, nas: Callable[..., Result]) -> None:
    study = make_study()
    assert not annotated(study)
    result = nas("worker", study.folder, "--trials", 1, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert annotated(Study.open(str(study.folder)))
