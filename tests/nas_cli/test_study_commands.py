"""`search`, `worker`, `front`, `show` and `pick`, on one small study that is really trained."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from surgery.architecture import Architecture
from surgery.config.quantities import format_count
from tests.nas_cli.conftest import MICRO

TRIALS = 4


def nas(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "nas_cli.main", *words],
        cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "140"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """A folder with a finished study `micro`."""
    here = tmp_path_factory.mktemp("studies")
    (here / "micro.yaml").write_text(
        MICRO.replace("corpus: builtin", f"corpus: {prepared}"), encoding="utf-8"
    )
    done = nas(here, "search", "micro.yaml", "--trials", str(TRIALS), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert f"[{TRIALS}/{TRIALS}]" in done.stdout
    assert "front of micro" in done.stdout
    return here


def test_search_again_has_nothing_to_do(folder: Path) -> None:
    done = nas(folder, "search", "micro.yaml", "--trials", str(TRIALS), "--device", "cpu")
    assert done.returncode == 0
    assert "resumes: space micro" in done.stdout
    assert f"{TRIALS} trained" in done.stdout


def test_another_space_is_refused_with_the_difference(folder: Path) -> None:
    text = (folder / "micro.yaml").read_text().replace("choice: [4, 8]", "choice: [4, 16]")
    (folder / "other.yaml").write_text(text)
    done = nas(folder, "search", "other.yaml", "--name", "micro", "--device", "cpu")
    assert done.returncode == 2
    assert "search.hdpl.rank" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_joins(folder: Path) -> None:
    done = nas(folder, "worker", "micro", "--trials", str(TRIALS), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert f"{TRIALS} architectures are trained" in done.stdout


def test_front_in_every_form(folder: Path) -> None:
    data = json.loads(nas(folder, "front", "micro", "--json").stdout)
    assert data["objectives"] == {"val_loss": "min", "params": "min"}
    assert data["trained"] == TRIALS
    points = [(item["metrics"]["val_loss"], item["metrics"]["params"]) for item in data["front"]]
    assert points == sorted(points)
    assert all(later[1] < sooner[1] for sooner, later in pairwise(points))
    assert [item["baseline"] for item in data["versus_baselines"]] == ["dense", "lt2-looped"]
    table = nas(folder, "front", "micro", "--baselines").stdout
    assert "#1 lt2-looped" in table
    assert "no higher params, decode_flops@64" in table
    every = json.loads(nas(folder, "front", "micro", "--all", "--json").stdout)["front"]
    assert len(every) == TRIALS

    done = nas(folder, "front", "micro", "--csv", "front.csv", "--plot", "front.png")
    assert done.returncode == 0, done.stderr
    assert "on the front" in done.stdout
    with (folder / "front.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["hash"] for row in rows] == [item["hash"] for item in data["front"]]
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    nas(folder, "front", "micro", "--plot", "front.html")
    page = (folder / "front.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert data["front"][0]["architecture"].split("·")[0] in page


def test_front_refuses_other_pictures(folder: Path) -> None:
    done = nas(folder, "front", "micro", "--plot", "front.bmp")
    assert done.returncode == 2
    assert ".png" in done.stderr


def test_show(folder: Path) -> None:
    shown = json.loads(nas(folder, "show", "micro", "0", "--json").stdout)
    assert shown["baseline"] == "dense"
    assert shown["costs"]["params"] == shown["metrics"]["params"]
    assert shown["curve"][-1]["val_loss"] == shown["metrics"]["val_loss"]
    text = nas(folder, "show", "micro", "0").stdout  # not a terminal
    assert "nats/token" in text
    (line,) = [line for line in text.splitlines() if "training loss" in line]
    losses = [point for point in shown["curve"] if "loss" in point]
    assert f"{losses[0]['loss']:.3f} to " in line
    assert line.endswith(f"{losses[-1]['loss']:.3f} to {format_count(losses[-1]['tokens'])} tokens")
    assert "decode_flops@64" in text  # the context of the study's constraint
    assert "@4096" not in text
    states = json.loads(nas(folder, "show", "micro", "--json").stdout)["states"]
    assert states["trained"] == TRIALS
    missing = nas(folder, "show", "micro", "99999")
    assert missing.returncode == 2
    assert "0 to" in missing.stderr


def test_pick(folder: Path) -> None:
    front = json.loads(nas(folder, "front", "micro", "--json").stdout)["front"]
    lowest = min(item["metrics"]["params"] for item in front)
    done = nas(folder, "pick", "micro", "--limit", f"params<={lowest:.0f}", "-o", "pick.yaml", "--json")
    chosen = json.loads(done.stdout)
    assert chosen["metrics"]["params"] == lowest
    architecture = Architecture.from_yaml(folder / "pick.yaml")
    assert architecture.hash == chosen["hash"]
    assert json.loads(nas(folder, "show", "pick.yaml", "--json").stdout)["hash"] == chosen["hash"]
    best = json.loads(nas(folder, "pick", "micro", "--best", "val_loss", "--json").stdout)
    assert best["number"] == front[0]["number"]
    nas(folder, "pick", "micro", "--portable", "-o", "design.yaml")
    design = Architecture.from_yaml(folder / "design.yaml", backbone=architecture.backbone)
    assert design.backbone == architecture.backbone


def test_pick_names_every_bad_limit(folder: Path) -> None:
    done = nas(folder, "pick", "micro", "--limit", "parms<=3M", "--limit", "val_loss=5")
    assert done.returncode == 2
    assert 'did you mean "params"?' in done.stderr
    assert "must look like" in done.stderr
    none = nas(folder, "pick", "micro", "--limit", "params<=10")
    assert none.returncode == 2
    assert "the front goes from" in none.stderr


def test_an_unknown_study_is_told_with_the_nearest(folder: Path) -> None:
    done = nas(folder, "front", "mikro")
    assert done.returncode == 2
    assert 'did you mean "micro"?' in done.stderr
