"""`nas latents`, and --adapter and --steer of `nas generate` and `nas eval`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Nas = Callable[..., Result]


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    for name, text in (("digits", "1 2 3 4 5 6 7 8 9 0\n"), ("words", "the list of all names\n")):
        (tmp_path / f"{name}.txt").write_text(text * 20)
    return tmp_path / "digits.txt", tmp_path / "words.txt"


def loss(nas: Nas, *arguments: object) -> float:
    return float(json.loads(nas("eval", *arguments, "--json").stdout)["loss"])


def test_reading(nas: Nas, model_folder: Path, texts: tuple[Path, Path]) -> None:
    data = json.loads(nas("latents", "show", model_folder, "--data", texts[0], "--json").stdout)
    assert [(item["layer"], item["projection"]) for item in data["projections"]] == [
        (0, "q"), (0, "gate"), (1, "q"), (1, "gate"),
    ]  # fmt: skip
    first = data["projections"][0]
    assert len(first["units"]) == first["rank"] == 8
    assert first["kl"] == pytest.approx(sum(unit["kl"] for unit in first["units"]))
    dead = [index for index, unit in enumerate(first["units"]) if unit["sd"] ** 2 <= 0.01]
    assert first["dead"] == dead
    shown = nas("latents", "show", model_folder, "--data", texts[0], "--dead-variance", "100").stdout
    assert "effective rank" in shown
    assert [line.split()[:4] for line in shown.splitlines()[2:6]] == [
        [str(layer), name, "8", "8"] for layer in (0, 1) for name in ("q", "gate")
    ]


def test_a_contrast_is_an_adapter(
    nas: Nas, model_folder: Path, texts: tuple[Path, Path], tmp_path: Path
) -> None:
    """By option as by file, and minus itself is nothing."""
    digits, words = texts
    out = tmp_path / "digits"
    sides = ("--having", digits, "--lacking", words)
    result = nas("latents", "contrast", model_folder, *sides, "-o", out, "--times", 0.3)
    assert "32 offsets" in result.stdout
    plain = loss(nas, model_folder, "--data", digits)
    more = loss(nas, model_folder, "--data", digits, "--adapter", out)
    file = tmp_path / "less.yaml"
    file.write_text("steer: [{adapter: digits, times: -1}]")
    less = loss(nas, model_folder, "--data", digits, "--steer", file)
    assert len({plain, more, less}) == 3
    both = loss(nas, model_folder, "--data", digits, "--adapter", out, "--steer", file)
    assert both == pytest.approx(plain, abs=1e-6)
    file.write_text("steer: [{adapter: digits}]")
    assert loss(nas, model_folder, "--data", digits, "--steer", file) == more
    assert str(out) in nas("eval", model_folder, "--data", digits, "--adapter", out).stdout
    again = nas("latents", "contrast", model_folder, *sides, "-o", out)
    assert again.exit_code == 2


def test_an_adapter_is_trained_and_generates(
    nas: Nas, model_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    budget = ("--tokens", 4096, "--batch-tokens", 512, "--eval-tokens", 1024, "--lr", "3e-2")
    result = nas("latents", "train", model_folder, "-o", out, "--data", prepared, *budget, "--json")
    data = json.loads(result.stdout)
    assert data["loss"] < data["loss_before"]
    assert data["parameters"] == 32
    text = ("generate", model_folder, "The", "--tokens", 8)
    assert nas(*text, "--adapter", out).stdout != ""
    steer = tmp_path / "steer.yaml"
    steer.write_text("steer: [{match: gate, add: 50}]")
    assert nas(*text, "--steer", steer).stdout != nas(*text).stdout


def test_mistakes_come_before_any_work(
    nas: Nas, model_folder: Path, llama_folder: Path, texts: tuple[Path, Path], tmp_path: Path
) -> None:
    steer = tmp_path / "steer.yaml"
    steer.write_text("steer:\n  - {match: o, add: 1}\n  - {match: q, layers: 5, scale: much}\n")
    result = nas("generate", model_folder, "The", "--steer", steer)
    assert result.exit_code == 2
    assert [(item.line, item.field) for item in result.exception.problems] == [
        (2, "steer[0].match"), (3, "steer[1].layers"), (3, "steer[1].scale"),
    ]  # fmt: skip
    for arguments in (
        ("generate", llama_folder, "The", "--steer", steer),
        ("eval", model_folder, "--adapter", tmp_path / "nowhere"),
        ("eval", model_folder, "--steer", steer, "--card"),
        ("latents", "show", llama_folder, "--data", texts[0]),
        ("latents", "train", llama_folder, "-o", tmp_path / "out"),
        ("latents", "train", model_folder, "-o", tmp_path / "out", "--tokens", 10),
        (
            "latents", "contrast", model_folder, "--having", texts[0], "--lacking", texts[1], "-o",
            tmp_path / "out", "--layers", "7",
        ),
    ):  # fmt: skip
        assert nas(*arguments).exit_code == 2, arguments
    assert not (tmp_path / "out").exists()
