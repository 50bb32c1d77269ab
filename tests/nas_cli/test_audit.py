"""`nas audit`, importances, hypervolume and the sampler against chance, as a user meets them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Nas = Callable[..., Result]


def study_options(folder: Path) -> tuple[str, ...]:
    return (folder.name, "--dir", str(folder.parent))


@pytest.fixture
def own_study(study_folder: Path, tmp_path: Path) -> Path:
    """A copy, so that no audit of another test has trained its runs."""
    return Path(shutil.copytree(study_folder, tmp_path / "runs" / study_folder.name))


def test_audit_trains_prints_and_goes_on(nas: Nas, own_study: Path, tmp_path: Path) -> None:
    options = ("--times", 2, "--architectures", 4, "--device", "cpu", "--plot", tmp_path / "audit.png")
    first = nas("audit", *study_options(own_study), *options)
    assert first.exit_code == 0, first.output
    assert "[4/4]" in first.stderr
    for text in ("proxy loss", "parameters only", "FLOPs only", "random order", "Kendall"):
        assert text in first.stdout
    assert "4 architectures are too few" in first.stdout
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")

    again = nas("audit", *study_options(own_study), *options[:-2], "--json")
    assert again.exit_code == 0
    assert again.stderr == ""  # nothing was left to train
    data = json.loads(again.stdout)
    assert data["times"] == 2
    assert data["long_tokens"] == 2 * data["proxy_tokens"] == 2048
    assert len(data["architectures"]) == 4
    assert data["predictors"][0]["predictor"] == "proxy loss"
    assert len(data["predictors"][0]["spearman"]) == 3


def test_audit_ends_when_its_time_is_up(nas: Nas, own_study: Path) -> None:
    options = ("--times", 1000, "--architectures", 3, "--workers", 2, "--device", "cpu", "--timeout", "1s")
    cut = nas("audit", *study_options(own_study), *options)
    assert cut.exit_code == 0, cut.output
    assert "time limit reached: 3 runs unfinished" in cut.stderr
    assert "0 architectures are too few" in cut.stdout
    assert "nan" not in cut.stdout


def test_audit_says_what_it_cannot_do(nas: Nas, study_folder: Path) -> None:
    assert nas("audit", "no-such-study").exit_code == 2
    bad = nas("audit", *study_options(study_folder), "--plot", "audit.bmp")
    assert bad.exit_code == 2
    assert ".png" in str(bad.exception)
    assert nas("audit", *study_options(study_folder), "--times", 1).exit_code == 2


def test_show_draws_the_hypervolume(nas: Nas, study_folder: Path, tmp_path: Path) -> None:
    for name, start in (("hv.png", b"\x89PNG"), ("hv.html", b"<!doctype html>")):
        shown = nas("show", *study_options(study_folder), "--plot", tmp_path / name)
        assert shown.exit_code == 0, shown.output
        assert "hypervolume" in shown.stdout
        assert "random trials alone" in shown.stdout
        assert (tmp_path / name).read_bytes().startswith(start)
    data = json.loads(nas("show", *study_options(study_folder), "--json").stdout)["hypervolume"]
    assert len(data["trials"]) == len(data["hypervolume"]) == 6
    assert data["tokens"] == [1024 * count for count in range(1, 7)]
    assert data["hypervolume"] == sorted(data["hypervolume"])
    assert len(data["alone"]["random"]["mean"]) == 4


def test_importances_need_trials(nas: Nas, study_folder: Path) -> None:
    shown = nas("show", *study_options(study_folder), "--importances")
    assert shown.exit_code == 2
    assert "importances need 10" in str(shown.exception)


def test_options_of_a_study_are_not_a_trials(nas: Nas, study_folder: Path) -> None:
    shown = nas(
        "show", study_folder.name, 0, "--dir", study_folder.parent, "--importances", "--plot", "a.png"
    )
    assert shown.exit_code == 2
    assert "--importances" in str(shown.exception)
    assert "--plot" in str(shown.exception)


def test_front_says_whether_chance_is_beaten(nas: Nas, study_folder: Path) -> None:
    assert "a random search itself" in nas("front", *study_options(study_folder)).stdout
    data = json.loads(nas("front", *study_options(study_folder), "--json").stdout)
    assert data["versus_random"]["random"] == 4
    assert {item["suggested_by"] for item in data["front"]} <= {"baseline", "random"}


@pytest.mark.slow
def test_importances_of_a_trained_study(nas: Nas, study_folder: Path, tmp_path: Path) -> None:

    from studies.study import Study
    from studies.workers.worker import work

    folder = tmp_path / "runs" / study_folder.name
    shutil.copytree(study_folder, folder)
    work(Study.open(str(folder)), target=14, device="cpu", log=lambda line: None)
    shown = nas("show", *study_options(folder), "--importances")
    assert shown.exit_code == 0, shown.output
    assert "hdpl.rank" in shown.stdout
    assert "too few to say that a field has no effect" in shown.stdout
    data = json.loads(nas("show", *study_options(folder), "--importances", "--json").stdout)
    assert {item["name"] for item in data["importances"]["fields"]} >= {"hdpl.rank", "loop.count"}
    assert isinstance(data["dead_knobs"], list)
