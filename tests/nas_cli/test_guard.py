"""Empty options, durations and folders: the same rules for every command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from nas_cli.options import parse_duration, parse_folder

Nas = Callable[..., Result]


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield path, command
    for name, child in inner.items():
        yield from commands(child, (*path, name))


def test_no_option_of_any_command_takes_an_empty_text(cli: typer.Typer) -> None:
    root = typer.main.get_command(cli)
    context = root.make_context("nas", ["show"], resilient_parsing=True)
    for name in root.commands:  # type: ignore[attr-defined]
        root.get_command(context, name)  # type: ignore[attr-defined]
    count = 0
    for path, command in commands(root):
        arguments = [item for item in command.params if item.param_type_name == "argument"]
        for option in command.params:
            if option.param_type_name != "option" or option.is_flag or option.name == "help":
                continue
            for empty in ("", "  "):
                given = [f"{option.opts[0]}={empty}", *("1" for _ in arguments)]
                with pytest.raises(typer.BadParameter, match="must not be empty"):
                    command.make_context(path[-1], given)
                count += 1
    assert count > 150


@pytest.mark.parametrize(
    "command",
    [
        ("search", ""), ("front", ""), ("show", " "), ("worker", ""), ("pick", ""), ("refine", ""),
        ("audit", ""), ("dashboard", ""), ("space", "show", ""), ("space", "validate", "x", ""), ("eval", ""),
        ("apply", "", "model"), ("apply", "a.yaml", ""), ("train", "", "-o", "out"), ("data", "info", ""),
        ("pick", "x", "--limit", "params<=1M", "--limit", ""),
    ],
)  # fmt: skip
def test_no_argument_is_empty(nas: Nas, command: tuple[str, ...]) -> None:
    result = nas(*command)
    assert result.exit_code == 2
    assert "must not be empty" in result.output


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("2H 5 min", 7500), ("1h1m1s", 3661)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["5", "0", "0m", "0h0s", "-5m", "1e9h", "9999999h", "9" * 400 + "h", "h", "m", "5 x", "nan", "1.5"],
)
@pytest.mark.parametrize("command", ["search", "refine", "audit"])
def test_what_is_no_duration(nas: Nas, text: str, command: str) -> None:
    result = nas(command, "x", f"--timeout={text}")
    assert result.exit_code == 2
    assert "--timeout" in result.output


def test_a_number_asks_for_its_unit() -> None:
    with pytest.raises(typer.BadParameter, match="5s, 5m or 5h"):
        parse_duration("5")


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nas: Nas) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert parse_folder("~/runs") == tmp_path / "runs"
    assert parse_folder(Path("runs")) == Path("runs")
    for text in ("a\nb", "~nosuchuser-x/runs"):
        with pytest.raises(typer.BadParameter):
            parse_folder(text)
        assert nas("front", "x", f"--dir={text}").exit_code == 2
    assert nas("front", "x", "--dir=~/runs").exit_code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("show", name) for name in ("..", ".", "~/x", "a\nb", "n" * 300, "é" * 200, "a/b", "-x")),
        *((command, "n" * 300) for command in ("front", "pick", "refine", "audit", "worker", "dashboard")),
    ],
)
def test_odd_names_of_studies(
    nas: Nas, command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert nas(command, "--", name).exit_code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ("--name", ".."), ("--name", "~/x"), ("--name", "."), ("--name", "a\nb"), ("--name", "n" * 300),
        ("--name=-x",), ("--storage", "sqlite://"), ("--storage", "sqlite:///file::memory:?uri=true"),
        ("--storage", "redis://localhost"),
    ],
)  # fmt: skip
def test_search_refuses_names_and_addresses_before_it_does_anything(
    nas: Nas, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare = "studies.workers.request.SearchRequest.prepare"
    monkeypatch.setattr(prepare, lambda *_: pytest.fail("text was prepared"))
    assert nas("search", "tiny", *options).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_the_password_is_not_shown(nas: Nas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_STORAGE", "nosuchdb://me:veryhush@host/db?password=hushtoo")
    result = nas("front", "x", "--dir", tmp_path)
    assert result.exit_code == 2
    assert "***" in str(result.exception)
    assert "hush" not in str(result.exception) + result.output
