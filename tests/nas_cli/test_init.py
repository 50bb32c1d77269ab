"""`nas init`: a space by options, by questions, or of replacements in a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from nas_cli.opening import open_space
from search_spaces import load_space
from search_spaces.summary import list_spaces
from search_spaces.template import Answers, space_text

Nas = Callable[..., Result]


def test_without_a_terminal_it_does_not_ask(nas: Nas, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    result = nas("init", file)
    assert result.exit_code == 0, result.output
    assert file.read_text() == space_text(Answers("mine"))
    assert "--dry-run" in result.stdout
    assert "exists" in str(nas("init", file).exception)
    assert nas("init", file, "--overwrite", "--loops").exit_code == 0
    assert file.read_text() == space_text(Answers("mine", loops=True))


def test_options(nas: Nas, tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    options = ("--size", "gpu", "--mixers", "sparse, gaussian", "--no-hdpl", "--context", 8192)
    result = nas("init", file, *options, "--limit", "params <= 36M")
    assert result.exit_code == 0, result.output
    space = load_space(file)
    assert space.name == "big"
    assert [str(item) for item in space.constraints] == ["params <= 36M"]
    assert file.read_text() == space_text(
        Answers("big", "gpu", ("sparse", "gaussian"), False, False, 8192, ["params <= 36M"])
    )


def test_refusals_write_nothing(nas: Nas, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert "no architecture" in str(nas("init", file, "--limit", "params <= 3").exception)
    assert "foo is none of gdn" in " ".join(nas("init", file, "--mixers", "foo").output.split())
    assert not file.exists()


def test_questions(cli: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.yaml"
    monkeypatch.setattr("nas_cli.commands.init._is_terminal", lambda: True)
    answers = "huge\ngpu\nnone\nn\ny\n\n40M\n"  # the first is asked again
    result = CliRunner().invoke(cli, ["init", str(file)], input=answers)
    assert result.exit_code == 0, result.output
    assert "'huge' is none of laptop, gpu" in result.output
    assert file.read_text() == space_text(Answers("mine", "gpu", (), False, True, 1024, ["params <= 40M"]))


def test_of_a_model(nas: Nas, llama_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "hybrid.yaml"
    result = nas("init", file, "--model", llama_folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.replace("\n", "").endswith(f"next: nas search {file}")
    assert "name: hybrid\n" in file.read_text()
    assert "--model." not in file.read_text()
    preset = open_space("pretrained-tiny", str(llama_folder))
    assert open_space(str(file), None).digest == preset.digest
    assert nas("space", "validate", file).exit_code == 0
    listed = {item.name: item for item in list_spaces(tmp_path)}["hybrid.yaml"]
    assert (listed.model, listed.needs_model, listed.problems) == (str(llama_folder), False, 0)
    assert nas("search", file, "--dry-run", "--dir", tmp_path / "runs").exit_code == 0
