"""Files and folders are recognised by what is in them, and nothing is taken for what it is not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from search_spaces.catalog import PRESETS
from surgery.architecture import Architecture
from surgery.config.problems import UserError
from surgery.config.recognise import HINTS, NAMES, Kind, other_kind, recognise
from surgery.hf.locate import is_local, reachable

ROOT = Path(__file__).resolve().parents[2]


def make(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"journal.log": ""}, "study"),
        ({"storage.url": "sqlite:///x"}, "study"),
        ({"one/journal.log": "", "two/journal.log": ""}, "studies"),
        ({"config.json": "{}"}, "model"),
        ({"adapter_config.json": "{}"}, "adapter"),
        ({"meta.json": "{}", "tokenizer/tokenizer.json": "{}"}, "data"),
        ({"notes.txt": "mine"}, None),
        ({}, None),
    ],
)
def test_folders(tmp_path: Path, files: dict[str, str], kind: Kind | None) -> None:
    assert recognise(make(tmp_path, files)) == kind


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.yaml", "layout: F\nbackbone: {dim: 8}\n", "architecture"),
        ("a.yaml", "layout: F\ndesigned_for: {dim: 8, context: 8}\n", "design"),
        ("a.yaml", "architecture: {layout: F}\ntensors: {}\n", "plan"),
        ("a.yml", "search: {}\n", "space"),
        ("a.yaml", "backbone: {dim: 8}\n", None),  # an architecture, or the beginning of a space
        ("a.yaml", "- 1\n", None),
        ("a.yaml", ": : :\n", None),
        ("a.json", '{"front": [], "objectives": {}}', "front"),
        ("a.json", "[" * 10_000, None),
        ("a.txt", "Once", "text"),
        ("a.bin", "\0", None),
    ],
)
def test_files(tmp_path: Path, name: str, text: str, kind: Kind | None) -> None:
    assert recognise(make(tmp_path, {name: text}) / name) == kind


@pytest.mark.parametrize("path", ["", "no/such", "a\0b", "x" * 5000, "~nobody-of-that-name/x"])
def test_what_is_not_there_is_nothing(path: str) -> None:
    assert recognise(path) is None


def test_what_nas_ships_is_recognised() -> None:
    assert {recognise(path) for path in PRESETS.glob("*.yaml")} == {"space"}
    assert recognise(ROOT / "examples" / "tiny-llama.yaml") == "architecture"


def test_every_hint_is_for_a_kind_and_has_a_command_or_an_option() -> None:
    for (wanted, kind), hint in HINTS.items():
        assert kind in NAMES
        assert kind != wanted
        assert "nas " in hint or "--d" in hint or "folder" in hint, hint


def test_a_problem_names_both_and_the_way_out(tmp_path: Path) -> None:
    study = make(tmp_path, {"journal.log": "", "front.json": '{"front": [], "objectives": {}}'})
    problem = other_kind(study / "front.json", "study")
    assert problem is not None
    assert (problem.rule, problem.hint) == (
        "is the front of a study, not a study", f"give the study's folder: {study}",
    )  # fmt: skip
    assert other_kind(study, "study") is None
    assert other_kind(study / "nothing", "study") is None


def test_an_architecture_is_read_only_from_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a search space, not an architecture"):
        Architecture.from_yaml(PRESETS / "tiny.yaml")
    design = make(tmp_path, {"d.yaml": "layout: F\ndesigned_for: {dim: 8, context: 8}\n"}) / "d.yaml"
    with pytest.raises(UserError, match="is a portable design"):
        Architecture.from_yaml(design)


def test_a_model_is_a_folder_or_a_hub_id(tmp_path: Path) -> None:
    assert is_local(make(tmp_path, {"config.json": "{}"}))
    assert not is_local("somebody/some-model")
    with pytest.raises(UserError, match="there is no such file"):
        is_local("pick.yaml")
    with pytest.raises(UserError, match="does not exist"):
        is_local("./nothing")


def test_a_server_is_reached_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(f"http://127.0.0.1:{port}")
    assert not reachable(f"http://127.0.0.1:{port}")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert reachable("https://127.0.0.1:1")  # the proxy decides
