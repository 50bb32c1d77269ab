"""Studies by name, by path, from another folder, renamed and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest

from search_spaces import SearchSpace
from studies.data import TokenData
from studies.study import Study
from studies.study.lookup import check_new
from studies.study.names import check_name, locate
from surgery.config.problems import UserError
from tests.studies.conftest import MakeStudy, study_settings

ODD = [
    "", " ", ".", "..", "~", "~/x", "a/b", "/tmp/x", "../x", "x/", "a\nb", "a\x00b", "-x", ".x", "_x",
    "n" * 256, "n" * 300, "é" * 200, "größe", "a b", "a\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_refused_for_new_studies(
    name: str, space: SearchSpace, tokens: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = study_settings(tokens)
    for attempt in (
        lambda: check_name(name),
        lambda: check_new(name, Path("runs"), None),
        lambda: Study.create_or_resume(name, space, settings, Path("runs")),
        lambda: Study.create(name, space, settings, Path("runs")),
        lambda: Study.open(name, Path("runs")),
    ):
        with pytest.raises(UserError):
            attempt()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a", "7", "a.b-c_D", "n" * 255])
def test_plain_names_are_taken(name: str, tmp_path: Path) -> None:
    assert check_new(name, tmp_path, None) == tmp_path / name


def test_names_of_earlier_versions_are_resumed(
    make_study: MakeStudy, space: SearchSpace, tokens: TokenData
) -> None:
    study = make_study()
    runs = study.folder.parent
    study.folder.rename(runs / "größe und mehr")
    again, resumed = Study.create_or_resume("größe und mehr", space, study_settings(tokens), runs)
    assert resumed
    assert again.name == "größe und mehr"


def test_a_study_by_its_path(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study().folder
    monkeypatch.chdir(folder)
    for name in (".", "./", "../study", "../study/", str(folder), f"{folder}/"):
        assert Study.open(name, Path("runs")).name == "study"
    assert locate("..", Path("runs")) == folder.parent


def test_a_relative_database_is_found_from_anywhere(
    make_study: MakeStudy, space: SearchSpace, tokens: TokenData, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    study = make_study(url="sqlite:///st.db")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for url in (None, "sqlite:///../st.db"):
        again, resumed = Study.create_or_resume(
            "study", space, study_settings(tokens), study.folder.parent, url
        )
        assert resumed
        assert len(again.records()) == 3
    # as earlier versions stored it
    (study.folder / "storage.url").write_text("sqlite:///st.db\n")
    (study.folder / "study.json").unlink()
    assert len(Study.open("study", study.folder.parent).records()) == 3
    assert not list(elsewhere.iterdir())


def test_an_absent_database_is_not_made_by_reading(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/no.db", f"sqlite+pysqlite:///{tmp_path}/no.db?timeout=3"):
        with pytest.raises(UserError, match="no such file"):
            Study.open("study", tmp_path / "runs", url)
    (tmp_path / "empty.db").touch()
    with pytest.raises(UserError, match="can't open the study's storage"):
        Study.open("study", tmp_path / "runs", f"sqlite:///{tmp_path}/empty.db")
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("empty.db", 0)]


def test_a_renamed_folder_is_the_same_study(
    make_study: MakeStudy, space: SearchSpace, tokens: TokenData, tmp_path: Path
) -> None:
    for name, url in (("one", None), ("two", f"sqlite:///{tmp_path}/a.db")):
        study = make_study(name, url=url)
        runs = study.folder.parent
        renamed = study.folder.rename(runs / f"renamed-{name}")
        for path in (renamed.name, str(renamed)):
            opened = Study.open(path, runs)
            assert [record.baseline for record in opened.records()] == ["dense", "hdpl-paper", "lt2-looped"]
            assert opened.name == renamed.name
            assert ('study "two" in sqlite' in opened.remark) == (url is not None)
        again, resumed = Study.create_or_resume(renamed.name, space, study_settings(tokens), runs)
        assert resumed
        again.inner.enqueue_trial({})
        assert len(Study.open(renamed.name, runs).records()) == 4
        with pytest.raises(UserError, match="no such study"):
            Study.open(name, runs)


def test_a_copied_journal_is_a_study_of_its_own(
    make_study: MakeStudy, space: SearchSpace, tokens: TokenData
) -> None:
    study = make_study("one")
    runs = study.folder.parent
    shutil.copytree(study.folder, runs / "copy")
    copy, resumed = Study.create_or_resume("copy", space, study_settings(tokens), runs)
    assert resumed
    copy.inner.enqueue_trial({})
    assert (len(study.records()), len(copy.records())) == (3, 4)
    assert not copy.remark


def test_a_copied_folder_on_a_shared_database_says_whose_study_it_is(
    make_study: MakeStudy, space: SearchSpace, tokens: TokenData, tmp_path: Path
) -> None:
    study = make_study("one", url=f"sqlite:///{tmp_path}/a.db")
    runs = study.folder.parent
    shutil.copytree(study.folder, runs / "copy")
    opened = Study.open("copy", runs)
    assert len(opened.records()) == 3
    assert f"is a copy of {study.folder}" in opened.remark
    assert 'both are study "one" in sqlite:///' in opened.remark
    with pytest.raises(UserError, match="is a copy of") as caught:
        Study.create_or_resume("copy", space, study_settings(tokens), runs)
    assert "resume it in the other folder" in str(caught.value)
    assert not Study.open("one", runs).remark
    study.folder.rename(runs / "renamed")  # the copy can't be distinguished any more
    for name in ("renamed", "copy"):
        with pytest.raises(UserError, match="is a copy of"):
            Study.create_or_resume(name, space, study_settings(tokens), runs)
    shutil.rmtree(runs / "renamed")
    for _ in range(2):
        again, resumed = Study.create_or_resume("copy", space, study_settings(tokens), runs)
        assert resumed
        assert 'was renamed: it is study "one"' in again.remark


def test_another_storage_is_refused_whatever_it_holds(
    make_study: MakeStudy, space: SearchSpace, tokens: TokenData, tmp_path: Path
) -> None:
    first, second = (f"sqlite:///{tmp_path}/{name}.db" for name in "ab")
    study = make_study("one", url=first)
    runs = study.folder.parent
    other = Study.create("one", space, study_settings(tokens), tmp_path / "others", second)
    for attempt in (
        lambda: Study.open("one", runs, second),
        lambda: Study.create_or_resume("one", space, study_settings(tokens), runs, second),
    ):
        with pytest.raises(UserError, match="exists in another storage"):
            attempt()
    # the same database by another address is the same study
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "a.db")
    assert Study.create_or_resume("one", space, study_settings(tokens), runs, f"sqlite:///{link}")[1]
    assert len(optuna.load_study(study_name="one", storage=second).trials) == len(other.records())
    embedded = make_study("two")
    with pytest.raises(UserError, match="exists in another storage"):
        Study.open("two", embedded.folder.parent, first)


def test_a_study_joined_by_its_address_is_found_without_it_afterwards(
    make_study: MakeStudy, space: SearchSpace, tokens: TokenData, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    make_study("one", url=url)
    there = tmp_path / "another machine"
    assert Study.create_or_resume("one", space, study_settings(tokens), there, url)[1]
    assert len(Study.open("one", there).records()) == 3
    (tmp_path / "third" / "one").mkdir(parents=True)
    (tmp_path / "third" / "one" / "front.json").write_text('{"theirs": 1}')
    with pytest.raises(UserError, match="not a study's"):
        Study.create_or_resume("one", space, study_settings(tokens), tmp_path / "third", url)
    assert [path.name for path in (tmp_path / "third" / "one").iterdir()] == ["front.json"]


def test_a_worker_notes_where_the_study_is(make_study: MakeStudy, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    study = make_study("one", url=url)
    Study.open("one", tmp_path / "another machine", url).join()
    there = Study.open("one", tmp_path / "another machine")
    assert there.url == url
    assert (there.folder / "space.yaml").read_text() == study.space.text
    shutil.copytree(study.folder, study.folder.parent / "copy")
    for _ in range(2):
        copy = Study.open("copy", study.folder.parent)
        assert "is a copy of" in copy.remark
        copy.join()
    theirs = tmp_path / "theirs" / "one"
    theirs.mkdir(parents=True)
    (theirs / "front.json").write_text("[1]")
    with pytest.raises(UserError):
        Study.open("one", tmp_path / "theirs", url).join()
    assert (theirs / "front.json").read_text() == "[1]"


def test_the_environment_names_a_default_only(
    make_study: MakeStudy, space: SearchSpace, tokens: TokenData, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first, second = (f"sqlite:///{tmp_path}/{name}.db" for name in "ab")
    embedded, stored = make_study("embedded"), make_study("stored", url=first)
    runs, settings = embedded.folder.parent, study_settings(tokens)
    make_study("unrelated", url=second)
    monkeypatch.setenv("NAS_STORAGE", second)
    for name, url in (("embedded", None), ("stored", first)):
        assert Study.open(name, runs, second).url == url
        again, resumed = Study.create_or_resume(name, space, settings, runs, second)
        assert (again.url, resumed) == (url, True)
    new, resumed = Study.create_or_resume("new", space, settings, runs, second)
    assert (new.url, resumed) == (second, False)
    monkeypatch.delenv("NAS_STORAGE")  # as --storage it is a demand
    for study in (embedded, stored):
        with pytest.raises(UserError, match=r"exists in another storage|is not in sqlite:.*b\.db"):
            Study.open(study.name, runs, second)
