"""`nas search --dry-run`: what a search would do, and that nothing of it is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState
from typer.testing import Result

from nas_cli.opening import open_space
from nas_cli.render.screen import console
from search_spaces import parse_space
from studies.data import TokenData
from studies.search.assignment import Assignment, take
from studies.search.search import Search
from studies.study import Study
from studies.study.checkpoints import checkpoint_of
from studies.study.copying import copy_study
from studies.study.leases import Lease
from studies.study.settings import StudySettings
from studies.workers.preview import preview, preview_library
from studies.workers.request import SearchRequest
from studies.workers.worker import work
from surgery.apply.source import read_source
from tests.nas_cli.conftest import MICRO

Nas = Callable[..., Result]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times each architecture for a moment."""
    monkeypatch.setattr("studies.workers.preview.TIMED_SECONDS", 0.01)


def test_it_names_the_first_architectures_of_the_search(prepared: Path, tmp_path: Path) -> None:
    space = parse_space(MICRO, "micro.yaml")
    request = SearchRequest(space, trials=4, data=str(prepared), device="cpu", runs=tmp_path, threads=1)
    seen: list[tuple[int, int]] = []
    result = preview(request, on_timed=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not any(tmp_path.iterdir())
    study, _ = request.open(request.prepare())
    work(study, target=4, device="cpu", log=lambda line: None)
    trained = [record for record in study.records() if record.state == "trained"]
    # with nothing trained yet, later suggestions may differ from those of a search that learns
    random = [record for record in trained if record.suggested_by in ("baseline", "random")]
    assert len(random) >= 3
    by_hash = {item.architecture.hash: item.name for item in result.first}
    for record in random:
        assert by_hash[record.hash] == (record.baseline or "")
    assert result.seconds is not None
    assert result.seconds > 0
    assert result.memory >= 16 * max(int(record.metrics["params"]) for record in random)


def test_the_screen(nas: Nas, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 60)
    space = tmp_path / "micro.yaml"
    space.write_text(MICRO)
    runs = tmp_path / "runs"
    result = nas(
        "search", space, "--dry-run", "--trials", 3, "--data", prepared, "--dir", runs, "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for words in ("a dry run, nothing is kept", "3 architectures", "time: about", "memory:", "disk:"):
        assert words in text
    assert not runs.exists()
    table = result.stdout.partition("first ")[2].partition("time: about")[0].splitlines()
    assert max(map(len, table)) <= 60
    assert any("dense" in line.split() for line in table)


def test_a_study_that_exists_would_be_resumed(nas: Nas, prepared: Path, tmp_path: Path) -> None:
    data = TokenData.open(prepared)
    settings = StudySettings(
        corpus=str(prepared), tokenizer="bpe:320", data_hash=data.content_hash, data_folder=str(prepared)
    )
    study = Study.create("micro", parse_space(MICRO, "micro.yaml"), settings, tmp_path)
    before = sorted(path.stat().st_mtime_ns for path in study.folder.rglob("*"))
    space = tmp_path / "micro.yaml"
    space.write_text(MICRO)
    options = ("--dry-run", "--trials", 2, "--dir", tmp_path, "--device", "cpu", "--data", prepared)
    result = nas("search", space, *options)
    assert "would be resumed" in result.stdout
    assert "has 0 architectures, target 2 architectures" in " ".join(result.stdout.split())
    space.write_text(MICRO.replace("[4, 8]", "[8]"))
    refused = nas("search", space, *options, "--seed", 1)
    assert refused.exit_code == 2
    assert "search.hdpl.rank: {choice: [4, 8]} -> 8" in str(refused.exception)
    assert "seed: 0 -> 1" in str(refused.exception)
    assert sorted(path.stat().st_mtime_ns for path in study.folder.rglob("*")) == before


def test_another_space_is_refused_before_its_text_is_fetched(
    nas: Nas, study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the preset's text is FineWeb-Edu
    for more in ((), ("--dry-run",)):
        refused = nas("search", "hybrid", "--name", study_folder.name, "--dir", study_folder.parent, *more)
        assert refused.exit_code == 2
        assert "was started differently, and keeps its space and settings" in str(refused.exception)
        assert "backbone: vocab_size 320 -> 8192" in str(refused.exception)


def test_the_next_trials_of_a_study_are_those_of_the_search(prepared: Path, tmp_path: Path) -> None:
    request = SearchRequest(
        parse_space(MICRO, "micro.yaml"), trials=5, data=str(prepared), device="cpu", runs=tmp_path,
        threads=1, sampler="random",
    )  # fmt: skip
    study, _ = request.open(request.prepare())
    work(study, target=3, device="cpu", log=lambda line: None)
    before = len(study.records())
    known = request.existing()
    assert known is not None
    planned = preview(request, known)
    assert planned.missing == 2
    assert len(study.records()) == before
    assert preview(replace(request, trials=3), known).first == ()
    work(study, target=5, device="cpu", log=lambda line: None)
    trained = [record for record in study.records()[before:] if record.state == "trained"]
    assert [(item.number, item.architecture.hash) for item in planned.first] == [
        (record.number, record.hash) for record in trained
    ]


def test_trials_of_live_workers_are_left_to_them(prepared: Path, tmp_path: Path) -> None:
    """A running trial whose worker lives is not planned again; one whose worker is dead is."""
    request = SearchRequest(
        parse_space(MICRO, "micro.yaml"), trials=3, data=str(prepared), device="cpu", runs=tmp_path, threads=1
    )
    study, _ = request.open(request.prepare())
    with Lease(study.workers_folder) as lease:
        taken = take(Search(study), lease.worker, 3)
        assert isinstance(taken, Assignment)
        assert taken.trial.number not in [item.number for item in preview(request, study).first]
    assert taken.trial.number in [item.number for item in preview(request, study).first]
    assert study.trial(taken.trial.number).state == TrialState.RUNNING


def test_a_copy_has_trials_and_empty_checkpoints(prepared: Path, tmp_path: Path) -> None:
    request = SearchRequest(
        parse_space(MICRO, "micro.yaml"), data=str(prepared), device="cpu", runs=tmp_path, threads=1
    )
    study, _ = request.open(request.prepare())
    study.trial_folder(1)
    checkpoint_of(study, 1).write_text("weights")
    copy = copy_study(study, tmp_path / "elsewhere")
    assert [record.baseline for record in copy.records()] == [record.baseline for record in study.records()]
    assert (copy.space.digest, copy.settings) == (study.space.digest, study.settings)
    assert checkpoint_of(copy, 1).read_text() == ""
    assert not checkpoint_of(copy, 0).exists()
    assert checkpoint_of(study, 1).read_text() == "weights"


def test_a_library_is_counted(nas: Nas, llama_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "search: {layers.mixer: {choice: [keep, W: {window: 8}, none]}, layers.ffn: {choice: [keep, none]}}\n"
        "objectives: {kl: min, cache_bytes@64: min}\n"
        "library: {fit_tokens: 512, seq_len: 64, score_tokens: 512, eval_tokens: 512}\n"
    )
    space = open_space(str(path), str(llama_folder))
    layers = space.backbone.num_layers
    counted = preview_library(SearchRequest(space))
    assert counted.replacements == 3 * layers
    assert counted.scored_tokens == 3 * layers * 512
    tensors = read_source(llama_folder).tensors
    attention = sum(math.prod(info.shape) for name, info in tensors.items() if "layers.0.self_attn" in name)
    # at most: a window has attention's tensors and its norm, and nothing has none
    assert 4 * layers * attention <= counted.disk <= 4.1 * layers * attention
    result = nas("search", path, "--dry-run", "--model", llama_folder, "--dir", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert f"{3 * layers} replacements are fitted to 512 tokens" in " ".join(result.stdout.split())
    assert not (tmp_path / "runs").exists()
