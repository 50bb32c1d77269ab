"""`nas refine`, and what `front`, `show` and `pick` say after it, on a study that is really trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna_dashboard import get_note
from typer.testing import Result

from nas_cli.render.verdict import print_verdict
from search_spaces import parse_space
from studies.analysis.marks import Marks
from studies.analysis.standings import Standings
from studies.analysis.versus_baselines import VersusBaselines
from studies.data import TokenData
from studies.files.defaults import DEFAULT_RUNS
from studies.study import Study
from studies.study.settings import StudySettings
from studies.workers.worker import work
from tests.nas_cli.conftest import MICRO
from tests.studies.tables import OBJECTIVES, record

Nas = Callable[..., Result]


@pytest.fixture
def runs(study_folder: Path, tmp_path: Path) -> Path:
    """A folder with a study `micro` of its own."""
    shutil.copytree(study_folder, tmp_path / "runs" / "micro")
    return tmp_path / "runs"


def test_refine_and_what_is_said_after_it(nas: Nas, runs: Path, tmp_path: Path) -> None:
    where = ("--dir", runs)
    before = nas("front", "micro", *where).output
    assert "no architecture was trained twice: nas refine micro --dir" in before
    assert "P(front)" not in before
    assert json.loads(nas("front", "micro", "--json", *where).output)["noise"] is None

    done = nas("refine", "micro", "--runs", 3, "--device", "cpu", *where)
    assert done.exit_code == 0, done.output
    assert "0 repeats so far, seed noise unknown" in done.output
    assert "[3]" in done.output
    assert "3 repeats in" in done.output
    assert "P(front)" in done.output
    note = get_note(Study.open("micro", runs).inner)  # for the dashboard, written meanwhile
    assert "P(front)" in note
    assert "±" in note
    assert (runs / "micro" / "artifacts").is_dir()

    data = json.loads(nas("front", "micro", "--json", *where).output)
    assert data["repeats"] == 3
    assert data["trained"] == 6
    assert data["noise"]["degrees_of_freedom"] == 3
    assert data["noise"]["coverage"]["val_loss"]["held_out"] == 3
    shown = [*data["front"], *data["near_front"]]
    assert sum(len(item["runs"]) - 1 for item in shown) <= 3
    for item in shown:
        low, high = item["intervals"]["val_loss"]
        assert low < item["metrics"]["val_loss"] < high
        assert 0 <= item["p_front"] <= 1
    every = json.loads(nas("front", "micro", "--all", "--json", *where).output)["front"]
    assert len(every) == 6  # repeats are no architectures

    table = nas("front", "micro", *where, "--csv", tmp_path / "f.csv", "--plot", tmp_path / "f.png").output
    assert "±" in table
    assert "can't tell from" in table
    assert "(3 degrees of freedom" in table
    assert "intervals for new seeds held in" in table
    assert table.count("nas refine micro") == 1
    nas("front", "micro", *where, "--plot", tmp_path / "f.html")
    assert "bars: 90 % intervals" in (tmp_path / "f.html").read_text(encoding="utf-8")

    repeated = next(item for item in every if len(item["runs"]) > 1)
    number, again = repeated["number"], repeated["runs"][1]["trial"]
    text = nas("show", "micro", number, *where).output
    assert f"(#{again}); mean" in text
    assert "a new seed within" in text
    other = json.loads(nas("show", "micro", again, "--json", *where).output)
    assert other["repeat_of"] == number
    assert other["state"] == "repeat"
    assert "3 repeat" in nas("show", "micro", *where).output

    picked = nas("pick", "micro", *where, "--best", "val_loss").output
    assert "the noise (90 %: ±" in picked
    assert "on the front with probability" in picked
    chosen = json.loads(nas("pick", "micro", *where, "--json").output)
    assert chosen["p_front"] is not None
    assert chosen["number"] in [item["number"] for item in data["front"]]
    lowest = min(item["metrics"]["params"] for item in data["front"])
    limited = json.loads(
        nas(
            "pick", "micro", *where, "--limit", f"params<={lowest:.0f}", "--best", "val_loss", "--json"
        ).output
    )
    assert limited["next_better"]["limit"].startswith("params")
    assert limited["next_better"]["value"] > lowest

    # the same command resumes, by other workers too
    joined = nas("worker", "micro", "--refine", "--trials", 4, "--device", "cpu", *where)
    assert "4 repeats are trained" in joined.output


def test_undecided_and_tied_are_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study.open("micro", runs)
    for count, expected in (
        (2, "; undecided: #1 (0."),
        (5, "; not told apart after 5 runs each: #1 (0."),
    ):
        spread = [0.01 * (-1) ** index for index in range(count)]
        records = [record(number, [(3.0 + step, 10.0 + number) for step in spread]) for number in range(2)]
        records += [record(2, [(9.0 + step, 1.0) for step in spread * 3])]
        standings = Standings(records, OBJECTIVES, 0)
        versus = VersusBaselines(records, standings, study.space)
        print_verdict(study, records, standings, Marks.of(study, standings), versus, DEFAULT_RUNS)
        text = capsys.readouterr().out
        lines = text.splitlines()
        assert len(lines) == 4  # noise, the best, the front, what is next
        assert expected in lines[2]
        assert "the best val_loss was also lucky" in lines[1]
        assert text.count("nas refine micro") == 1
        assert lines[3].startswith("next: nas refine micro ")
        assert ("retrains what is undecided" in lines[3]) == (count == 2)
        assert "confirms the best" in lines[3]


def test_a_single_architecture_is_not_retrained(nas: Nas, prepared: Path, tmp_path: Path) -> None:
    settings = StudySettings(
        sampler="random", corpus=str(prepared), tokenizer="bpe:320",
        data_hash=TokenData.open(prepared).content_hash, data_folder=str(prepared),
    )  # fmt: skip
    study = Study.create("micro", parse_space(MICRO, "micro.yaml"), settings, tmp_path)
    work(study, target=1, device="cpu", log=lambda line: None)
    refused = nas("refine", "micro", "--dir", tmp_path)
    assert refused.exit_code == 2
    assert "has a single one: there is no other to tell it from" in str(refused.exception)
    assert "--trials" in str(refused.exception)
    assert not any(record.repeat_of is not None for record in study.records())


def test_refine_names_what_is_wrong(nas: Nas, runs: Path) -> None:
    assert nas("refine", "mikro", "--dir", runs).exit_code == 2
    assert nas("refine", "micro", "--each", 1, "--dir", runs).exit_code == 2
    assert nas("refine", "micro", "--device", "cuda:99", "--dir", runs).exit_code == 2
