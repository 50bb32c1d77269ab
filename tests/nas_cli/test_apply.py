"""`nas apply`: the plan on the screen, a rewritten model in the folder, losses and healing on real text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Nas = Callable[..., Result]

HDPL = "projections:\n  - {match: [gate, up], operator: hdpl, blocks: 4, rank: 8, kl: mean}\n"


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    path = tmp_path / "hdpl.yaml"
    path.write_text(HDPL)
    return path


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    nas: Nas, architecture: Path, llama_folder: Path, tmp_path: Path
) -> None:
    result = nas("apply", architecture, llama_folder, "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    for words in ("FF·hdpl[gu] b4 r8", "gate up -> hdpl", "kept bit for bit", "layers 0-1: ffn.gate, ffn.up"):
        assert words in result.stdout
    assert not (tmp_path / "out").exists()
    plan = json.loads(nas("apply", architecture, llama_folder, "--dry-run", "--json").stdout)["plan"]
    assert plan["rules"] == [{"rule": "gate up -> hdpl b4 r8 mean:0.001", "matches": 4}]


def test_a_rewritten_model_is_verified_and_loads(
    nas: Nas, architecture: Path, llama_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = nas("apply", architecture, llama_folder, "-o", out, "--calibrate", text_file)
    assert result.exit_code == 0
    assert "verified in a fresh process" in result.stdout
    assert "output error" in result.stdout
    assert nas("generate", out, "The", "--max-new-tokens", 5).exit_code == 0
    again = nas("apply", architecture, llama_folder, "-o", out, "--calibrate", text_file)
    assert again.exit_code == 2
    assert "not empty" in str(again.exception)


def test_healing_trains_the_result_and_says_what_it_brought(
    nas: Nas, architecture: Path, llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = nas(
        "apply", architecture, llama_folder, "-o", out, "--calibrate", "none", "--heal", "8k", "--data",
        prepared, "--seq-len", 64, "--batch-tokens", 512, "--lr", 3e-3, "--json",
    )  # fmt: skip
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    healing = data["healing"]
    assert data["verification"]["passed"]
    assert all(fit["output_error"] is None for fit in data["fits"])
    assert healing["after"]["val_loss"] < healing["before"]["val_loss"] - 0.05
    card = (out / "README.md").read_text()
    for what, loss in (("rewritten", healing["before"]), ("healed", healing["after"])):
        assert f"{what} model: loss {loss['val_loss']:.4f}" in result.stderr
        assert f"| {what} | {loss['val_loss']:.4f} |" in card
    arguments = ("--data", prepared, "--seq-len", 64, "--max-tokens", "32768", "--json")
    measured = json.loads(nas("eval", out, *arguments).stdout)
    assert measured["loss"] == pytest.approx(healing["after"]["val_loss"], abs=1e-4)
    original = json.loads(nas("eval", llama_folder, *arguments).stdout)
    assert original["loss"] == pytest.approx(healing["original"]["val_loss"], abs=1e-4)


def test_measuring_alone_changes_nothing(llama_folder: Path, prepared: Path) -> None:
    """An all-dense surgery has the original's loss, and every tensor comes back as it was, in bfloat16."""
    import torch

    from studies.data import TokenData
    from studies.heal import Healer
    from surgery.apply.execute import execute
    from surgery.apply.plan import plan
    from surgery.apply.source import read_source

    source = read_source(llama_folder)
    model, _ = execute(source, plan(source, {"layout": "F"}))
    model.to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    healer = Healer(
        source, TokenData.open(prepared), None, seq_len=64, seed=0, device=torch.device("cpu")
    )  # fmt: skip
    assert "Not trained" in healer(model)
    assert healer.healing is not None
    assert healer.healing.before.val_loss == pytest.approx(healer.healing.original.val_loss, abs=1e-3)
    assert healer.healing.after is None
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--fold", "best"], "fold"),
        (["--calibrate", "nowhere.txt"], "no such file"),
        (["--heal", "100"], "less than one step"),
        (["--device", "cuda:77"], "not available"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    nas: Nas, architecture: Path, llama_folder: Path, tmp_path: Path, change: list[str], said: str
) -> None:
    out = tmp_path / "out"
    result = nas("apply", architecture, llama_folder, "-o", out, *change)
    assert result.exit_code == 2
    assert said in str(result.exception)
    assert not out.exists()


def test_an_output_is_needed(nas: Nas, architecture: Path, llama_folder: Path) -> None:
    result = nas("apply", architecture, llama_folder)
    assert result.exit_code == 2
    assert "--output" in result.stderr
