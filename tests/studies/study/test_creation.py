"""Studies are made whole or not at all, and what nas did not make stays as it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event
from sqlalchemy.engine import Engine

from search_spaces import SearchSpace
from studies.data import TokenData
from studies.reporting.dashboard import Dashboard
from studies.storage.attributes import ATTRIBUTE, MARK
from studies.storage.journal import JournalFile
from studies.study import Study
from studies.study import creation as making
from studies.workers.worker import work
from surgery.config.problems import UserError
from tests.studies.conftest import MakeStudy, study_settings

Search = Callable[..., tuple[Study, bool]]
BASELINES = ["dense", "hdpl-paper", "lt2-looped"]


@pytest.fixture
def search(space: SearchSpace, tokens: TokenData, tmp_path: Path) -> Search:
    """search(name, url=...) -> what `nas search` does first."""

    def make(name: str = "study", url: str | None = None) -> tuple[Study, bool]:
        return Study.create_or_resume(name, space, study_settings(tokens), tmp_path / "runs", url)

    return make


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optuna's tables: making them takes most of a second."""
    path = tmp_path_factory.mktemp("database") / "empty.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}").engine.dispose()
    return path


@pytest.fixture
def url(tmp_path: Path, empty_database: Path) -> str:
    shutil.copy(empty_database, tmp_path / "team.db")
    return f"sqlite:///{tmp_path / 'team.db'}"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def their_study(storage: Any, name: str = "study", trials: int = 3) -> optuna.Study:
    study = optuna.create_study(study_name=name, storage=storage, directions=["minimize", "maximize"])
    for index in range(trials):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, [index, index])
    return study


def contents(study: optuna.Study) -> list[Any]:
    system = study._storage.get_study_system_attrs(study._study_id)
    return [study.user_attrs, system, study.directions, *map(repr, study.get_trials())]


@pytest.mark.parametrize("trials", [0, 1, 3])
def test_another_persons_study_in_a_database_is_left_alone(
    search: Search, url: str, tmp_path: Path, trials: int
) -> None:
    theirs = their_study(url, trials=trials)
    if trials == 0:
        theirs.enqueue_trial({"x": 0.5})  # a half-made study of nas has waiting trials too
    before = contents(theirs)
    for attempt in (search, lambda name, url: Study.open(name, tmp_path / "runs", url)):
        with pytest.raises(UserError, match="not made by nas") as caught:
            attempt("study", url)
        assert "give another --name" in str(caught.value)
        assert f"{max(trials, 1)} trial" in str(caught.value)
    assert contents(optuna.load_study(study_name="study", storage=url)) == before
    assert not (tmp_path / "runs").exists()
    study, resumed = search("other", url)
    assert not resumed
    assert [record.baseline for record in study.records()] == BASELINES
    assert contents(optuna.load_study(study_name="study", storage=url)) == before


def test_a_database_keeps_the_studies_of_others_beside_ours(search: Search, url: str) -> None:
    theirs = their_study(url, "theirs")
    before = contents(theirs)
    study, _ = search("ours", url)
    served = Dashboard(study, "127.0.0.1", 0)
    served.server.server_close()
    assert contents(optuna.load_study(study_name="theirs", storage=url)) == before


def plain_journal(folder: Path, name: str = "study", trials: int = 2) -> None:
    their_study(JournalStorage(JournalFileBackend(str(folder / "journal.log"))), name, trials)


@pytest.mark.parametrize(
    "put",
    [
        lambda folder: plain_journal(folder),
        lambda folder: plain_journal(folder, trials=0),
        lambda folder: plain_journal(folder, "another name"),
        lambda folder: (folder / "journal.log").write_text("a diary\n"),
        lambda folder: (folder / "space.yaml").write_text("rooms: [kitchen]\n"),
        lambda folder: (folder / "front.json").write_text("{}"),
        lambda folder: (folder / "study.json").write_text('{"title": "of birds"}'),
        lambda folder: (folder / "trials").mkdir(),
        lambda folder: (folder / "workers.log").write_text("day 1\n"),
    ],
)
def test_a_folder_with_files_of_the_users_own_is_left_alone(
    search: Search, tmp_path: Path, put: Callable[[Path], object]
) -> None:
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    put(folder)
    before = tree(folder)
    with pytest.raises(UserError):
        search()
    after = tree(folder)
    after.pop("journal.lock", None)  # of Optuna's journal when it is read
    assert after == before


def test_other_files_in_the_folder_are_allowed(search: Search, tmp_path: Path, space: SearchSpace) -> None:
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    (folder / "space.yaml").write_text(space.text)  # the very one
    study, _ = search()
    assert [record.baseline for record in study.records()] == BASELINES
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_failed_start_takes_back_what_it_made_and_nothing_else(
    search: Search, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    before = tree(tmp_path / "runs")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("studies.study.study.write_space", fail)
    for where in (None, url):
        with pytest.raises(UserError, match="No space left"):
            search("study", where)
        assert tree(tmp_path / "runs") == before
    assert (tmp_path / "runs" / "study").is_dir()


def test_folders_made_by_a_failed_start_are_kept_where_another_study_uses_them(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        (tmp_path / "runs" / "another").mkdir()  # at the same time
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("studies.study.study.refuse_occupied", fail)
    with pytest.raises(UserError):
        search()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["another"]


def killed_at(step: int, start: Callable[[], object]) -> bool:
    """Run `start` in a process that is killed at its step-th write. Returns whether it came to that."""
    child = os.fork()
    if child == 0:
        left = step

        def count(*_: object) -> None:
            nonlocal left
            if left == 0:
                os._exit(9)
            left -= 1

        event.listen(Engine, "commit", count)
        append = JournalFile.append_logs
        JournalFile.append_logs = lambda self, logs: (count(), append(self, logs))[1]  # type: ignore
        try:
            start()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def check_killed(search: Search, url: str | None, step: int, runs: Path) -> bool:
    """Kill a creation at a write and search again. Returns whether it came to that."""
    if not killed_at(step, lambda: search("study", url)):
        return False
    if url is not None:
        there = {study.study_name: study for study in optuna.get_all_study_summaries(url)}
        assert "study" not in there or MARK in there["study"].user_attrs  # both or none
    try:
        before = Study.open("study", runs).records()
    except UserError:
        study, resumed = search("study", url)
        assert not resumed
    else:
        study, resumed = search("study", url)
        assert resumed
        assert before == study.records()
    assert [record.baseline for record in study.records()] == BASELINES
    shutil.rmtree(study.folder)
    if url is not None:
        optuna.delete_study(study_name="study", storage=url)
    return True


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("embedded", [True, False])
def test_a_creation_that_is_killed_is_made_again(
    search: Search, url: str, tmp_path: Path, embedded: bool, step: int
) -> None:
    assert check_killed(search, None if embedded else url, step, tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("embedded", [True, False])
def test_a_creation_that_is_killed_at_any_write_is_made_again(
    search: Search, url: str, tmp_path: Path, embedded: bool
) -> None:
    where, step = None if embedded else url, 0
    while check_killed(search, where, step, tmp_path / "runs"):
        step += 1
    assert step >= 5
    work(search("study", where)[0], target=1, device="cpu", log=lambda line: None)


def test_a_half_made_study_of_another_folder_is_left_for_an_hour(
    search: Search, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = optuna.storages.get_storage(url)
    making.create(storage, "study", [optuna.study.StudyDirection.MINIMIZE], making.new_mark())
    with pytest.raises(UserError, match="is being made by nas on"):
        search("study", url)
    with pytest.raises(UserError, match="creation was interrupted"):
        Study.open("study", tmp_path / "runs", url)
    assert not (tmp_path / "runs" / "study").exists()
    monkeypatch.setattr(making, "LONGEST_SECONDS", 0.0)
    study, resumed = search("study", url)
    assert not resumed
    assert ATTRIBUTE in study.inner.user_attrs


def test_a_lost_database_is_told_and_not_begun_anew(search: Search, url: str, tmp_path: Path) -> None:
    study, _ = search("study", url)
    kept = tree(study.folder)
    (tmp_path / "team.db").unlink()
    with pytest.raises(UserError, match="no such file"):
        search("study")
    assert not (tmp_path / "team.db").exists()
    optuna.create_study(storage=url)
    with pytest.raises(UserError, match="any more"):
        search("study")
    assert tree(study.folder) == kept


def test_what_earlier_versions_stored_is_read_and_resumed(
    search: Search, url: str, tmp_path: Path, space: SearchSpace, tokens: TokenData
) -> None:
    from dataclasses import asdict, replace

    from studies.study.creation import start
    from studies.study.rules import rules_of

    settings = replace(study_settings(tokens), rules=rules_of(space))
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    inner = start(optuna.storages.get_storage(url), "study", space)
    (folder / "space.yaml").write_text(space.text)
    (folder / "storage.url").write_text(url + "\n")
    inner.set_user_attr(ATTRIBUTE, {"space": space.text, **asdict(settings)})
    before = tree(folder)
    assert len(Study.open("study", tmp_path / "runs").records()) == 3
    assert tree(folder) == before
    assert search("study")[1]
    assert json.loads((folder / "study.json").read_text())["study"] == "study"
    folder.rename(tmp_path / "runs" / "renamed")
    assert len(Study.open("renamed", tmp_path / "runs").records()) == 3


def test_make_study_twice(make_study: MakeStudy, url: str) -> None:
    make_study(url=url)
    for where in (url, None):
        with pytest.raises(UserError, match="exists already"):
            make_study(url=where)
