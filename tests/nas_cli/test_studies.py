"""`nas studies` lists what is there, also what can't be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from nas_cli.render.screen import console
from studies.study import Study
from studies.study.leases import Lease
from studies.study.overview import Overview
from tests.scored_study import make_study

Nas = Callable[..., Result]


@pytest.fixture
def runs(study_folder: Path, tmp_path: Path) -> Path:
    """A folder with a finished study, a damaged one, and a folder that is none."""
    shutil.copytree(study_folder, tmp_path / "runs" / "micro")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "journal.log").write_text("nonsense\n" * 3)
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def test_the_list(nas: Nas, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    study = Study.open("micro", runs)
    result = nas("studies", "--dir", runs)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    row = next(line for line in lines if line.startswith("micro"))
    best = min(study.front(), key=lambda record: record.metrics["val_loss"])
    assert "from scratch" in row
    assert f"val_loss {best.metrics['val_loss']:.4f} (#{best.number})" in row
    assert " ago" in row
    assert f"nas show micro --dir {runs}" in lines[-1]
    assert any(line.startswith("broken") for line in lines)
    assert "notes" not in result.stdout


@pytest.mark.parametrize("width", [60, 80])
def test_the_list_fits_a_narrow_terminal(
    nas: Nas, runs: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(runs / "broken")
    monkeypatch.setattr(console, "_width", width)
    lines = nas("studies", "--dir", runs).stdout.splitlines()[:-1]  # the last one is a command to copy
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert {"micro", "trained", "best"} <= {word.strip(",") for word in words}


def test_as_json(nas: Nas, runs: Path) -> None:
    study = Study.open("micro", runs)
    listed = json.loads(nas("studies", "--dir", runs, "--json").stdout)
    assert [item["name"] for item in listed] == ["micro", "broken"]
    words = [record.word for record in study.records()]
    assert listed[0]["states"] == {word: words.count(word) for word in words}
    assert listed[0]["workers"] == 0
    assert listed[1]["problem"]
    assert listed[1]["last"] is None
    with Lease(study.workers_folder) as lease:
        lease.report_status({})
        assert Overview.of(study).workers == 1


def test_a_study_of_a_pretrained_model(tmp_path: Path) -> None:
    overview = Overview.of(make_study(tmp_path))
    assert overview.model == "smol"
    assert overview.states == {"measured": 4}
    assert (overview.objective, overview.trial) == ("kl", 1)  # trial 0 is the original
    assert overview.best == pytest.approx(1.5 * 0.002 * (2 + 3))


def test_an_empty_folder_names_the_first_command(nas: Nas, tmp_path: Path) -> None:
    assert "nas search tiny" in nas("studies", "--dir", tmp_path).stdout
    assert json.loads(nas("studies", "--dir", tmp_path / "nowhere", "--json").stdout) == []
