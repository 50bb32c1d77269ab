"""`nas apply`: the plan on the screen, a rewritten model in the folder, losses and healing on real text."""

from __future__ import annotations

import json
import shutil
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


def test_a_plan_is_written_and_carried_out_as_edited(
    nas: Nas, architecture: Path, llama_folder: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "plan.yaml", tmp_path / "out"
    first = nas("apply", architecture, llama_folder, "--dry-run", "--plan", path)
    assert first.exit_code == 0
    edited = path.read_text().replace("layers.1.ffn.down: kept", "layers.1.ffn.down: silent")
    path.write_text(edited)
    result = nas("apply", path, llama_folder, "-o", out, "--calibrate", "none")
    assert result.exit_code == 0
    assert "silent" in result.stdout
    again = nas("apply", architecture, llama_folder, "--dry-run", "--plan", path)
    assert again.exit_code == 2  # an edited plan is not replaced
    path.write_text(edited.replace("silent", "fitted"))
    refused = nas("apply", path, llama_folder, "--dry-run")
    assert "tensors.layers.1.ffn.down = 'fitted': must be kept or new or silent" in str(refused.exception)


def test_a_rewritten_model_is_verified_and_loads(
    nas: Nas, architecture: Path, llama_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = nas("apply", architecture, llama_folder, "-o", out, "--calibrate", text_file)
    assert result.exit_code == 0
    assert "verified in a fresh process" in result.stdout
    assert "output error" in result.stdout
    assert nas("generate", out, "The", "--tokens", 5).exit_code == 0
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
    arguments = ("--data", prepared, "--seq-len", 64, "--tokens", "32768", "--json")
    measured = json.loads(nas("eval", out, *arguments).stdout)
    assert measured["loss"] == pytest.approx(healing["after"]["val_loss"], abs=1e-4)
    original = json.loads(nas("eval", llama_folder, *arguments).stdout)
    assert original["loss"] == pytest.approx(healing["original"]["val_loss"], abs=1e-4)


def test_measuring_alone_changes_nothing(llama_folder: Path, prepared: Path) -> None:
    """An all-dense surgery has the original's loss, and every tensor comes back as it was, in bfloat16."""
    import torch

    from studies.data import TokenData
    from studies.healing.healer import Healer
    from studies.healing.settings import HealSettings
    from surgery.apply.execute import execute
    from surgery.apply.plan import plan
    from surgery.apply.source import read_source

    source = read_source(llama_folder)
    planned = plan(source, {"layout": "F"})
    model, _ = execute(source, planned)
    model.to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = HealSettings(tokens=0, seq_len=64)
    healer = Healer(source, planned, TokenData.open(prepared), settings, device=torch.device("cpu"))
    with healer:
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
        (["--calibrate", "nowhere.txt", "--dry-run"], "--calibrate = 'nowhere.txt'"),
        (["--data", "nowhere.txt"], "--data = 'nowhere.txt'"),
        (["--heal", "100"], "--heal = 100: is less than one step"),
        (["--heal", "100", "--dry-run"], "less than one step"),
        (["--heal", "8k", "--batch-tokens", 7], "--batch-tokens = 7: must be a multiple"),
        (["--heal", "8k", "--seq-len", 512], "--seq-len = 512: exceeds the model's context of 256"),
        (["--lr", "0.1"], "--lr = 0.1: has no effect without --heal"),
        (["--batch-tokens", "4k", "--seed", 3], "--seed = 3: has no effect without --heal"),
        (["--seq-len", 64], "--seq-len = 64: has no effect without --heal or --data"),
        (["--device", "cuda:77"], "not available"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    nas: Nas, architecture: Path, llama_folder: Path, tmp_path: Path, change: list[str], said: str
) -> None:
    out = tmp_path / "out"
    result = nas("apply", architecture, llama_folder, "-o", out, *change)
    assert result.exit_code == 2
    assert said in str(result.exception) + result.output
    assert not out.exists()


def test_an_output_is_needed(nas: Nas, architecture: Path, llama_folder: Path) -> None:
    result = nas("apply", architecture, llama_folder)
    assert result.exit_code == 2
    assert "--output" in result.stderr


def test_text_for_fitting_is_not_ignored_silently(nas: Nas, llama_folder: Path, tmp_path: Path) -> None:
    dense = tmp_path / "dense.yaml"
    dense.write_text("layout: F\n")
    result = nas("apply", dense, llama_folder, "--dry-run", "--calibrate", "builtin")
    assert result.exit_code == 0
    assert "--calibrate has no effect" in result.stderr
    assert "--calibrate" not in nas("apply", dense, llama_folder, "--dry-run").stderr


@pytest.fixture
def model(llama_folder: Path, tmp_path: Path) -> Path:
    """A model inside a folder that says that it is a model too."""
    around = tmp_path / "around"
    shutil.copytree(llama_folder, around / "model")
    (around / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(around / "model")
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    return around / "model"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("around/model", "is the model itself"),
        ("around/model/", "is the model itself"),
        ("around/../around/model", "is the model itself"),
        ("link", "is the model itself"),
        ("around/model/inside", "is inside the model's folder"),
        ("link/inside/deeper", "is inside the model's folder"),
        ("around", "holds the model's folder"),
        (".", "holds the model's folder"),
        ("file", "is not a folder"),
        ("file/out", "can't be made: {}/file is not a folder"),
        ("file/deep/out", "can't be made: {}/file is not a folder"),
        ("dangling", "is not a folder"),
        ("dangling/out", "can't be made: {}/dangling is not a folder"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_model_is_never_written_over_its_source(
    nas: Nas, architecture: Path, model: Path, tmp_path: Path, output: str, said: str, dry_run: list[str]
) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = content()
    # joined as text: a Path would simplify what is tested
    result = nas("apply", architecture, model, "-o", f"{tmp_path}/{output}", "--overwrite", *dry_run)
    assert result.exit_code == 2
    assert said.format(tmp_path) in str(result.exception), result.exception
    assert content() == before


def test_a_link_to_the_source_is_the_source(
    nas: Nas, architecture: Path, model: Path, tmp_path: Path
) -> None:
    result = nas("apply", architecture, tmp_path / "link", "-o", model, "--overwrite", "--dry-run")
    assert "is the model itself" in str(result.exception)
