"""`nas eval --probe`: how well the layers of a model or of a file learn a task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from typer.testing import Result

from nas_cli.probes import read_settings
from search_spaces import parse_space
from search_spaces.probes.recall import Recall
from search_spaces.probes.state import OPTIONS, State
from studies.probes import train_probe
from surgery.architecture import Architecture

from .conftest import MICRO

Nas = Callable[..., Result]
CPU = torch.device("cpu")
QUICK = ("--steps", 8, "--batch-sequences", 4, "--device", "cpu")


def test_json_of_state(nas: Nas, architecture_file: Path) -> None:
    arguments = ("eval", architecture_file, "--probe", "state", "--group", "parity", "--seq-len", 6, *QUICK)
    data = json.loads(nas(*arguments, "--seeds", 3, "--seed", 5, "--json").stdout)
    architecture = Architecture.from_yaml(architecture_file)
    settings = State(group="parity", length=6, steps=8, batch=4, lr=OPTIONS["lr"].default)
    scores = [train_probe(architecture, settings, seed, CPU) for seed in (5, 6, 7)]
    assert data.pop("seconds") > 0
    assert data == {
        "model": str(architecture_file),
        "architecture": architecture.line,
        "hash": architecture.hash,
        "probe": "state",
        "settings": {"group": "parity", "length": 6, "steps": 8, "batch": 4, "lr": settings.lr},
        "accuracy": fmean(scores),
        "spread": stdev(scores),
        "chance": 0.5,
        "seeds": [5, 6, 7],
        "accuracies": scores,
    }


def test_json_of_recall_with_one_seed(nas: Nas, architecture_file: Path) -> None:
    arguments = ("eval", architecture_file, "--probe", "recall", "--pairs", 10, "--distance", 5, *QUICK)
    data = json.loads(nas(*arguments, "--lr", 1e-3, "--json").stdout)
    settings = {
        "pairs": 10, "seq_len": 65, "alphabet": 20, "steps": 8, "batch": 4, "lr": 1e-3, "distance": 5,
    }  # fmt: skip
    assert data["settings"] == settings
    score = train_probe(Architecture.from_yaml(architecture_file), Recall(**settings), 0, CPU)
    assert (data["accuracy"], data["accuracies"], data["seeds"]) == (score, [score], [0])
    assert (data["spread"], data["chance"]) == (None, 0.1)


def test_a_model_is_what_its_architecture_is(
    nas: Nas, model_folder: Path, llama_folder: Path, architecture_file: Path, tmp_path: Path
) -> None:
    """The layers count, not the weights: of our folders by the architecture, of stock ones by the config."""
    dense = tmp_path / "dense.yaml"
    dense.write_text(
        "backbone: {vocab_size: 320, dim: 32, num_layers: 2, num_heads: 4, num_kv_heads: 2, ffn_dim: 64}\n"
    )
    for folder, file in ((model_folder, architecture_file), (llama_folder, dense)):
        arguments = ("--probe", "state", "--seq-len", 4, *QUICK, "--json")
        one, other = (json.loads(nas("eval", source, *arguments).stdout) for source in (folder, file))
        assert one["accuracy"] == other["accuracy"]
        assert one["architecture"] == other["architecture"]


def test_what_is_told(nas: Nas, architecture_file: Path) -> None:
    text = nas("eval", architecture_file, "--probe", "state", *QUICK, "--seeds", 2).stdout
    assert "words of 32 over parity, 8 steps of 4 words" in text
    assert "±" in text
    assert "over 2 seeds" in text
    assert "chance    0.500" in text
    text = nas("eval", architecture_file, "--probe", "recall", "--distance", 9, *QUICK).stdout
    assert "8 pairs, queried at least 9 tokens later, in sequences of 57" in text
    assert "±" not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--probe stat", "'stat' is not one of"),
        ("--probe state --pairs 4", "--pairs = 4: has no effect on the state probe"),
        ("--probe recall --group s5", "--group = 's5': has no effect on the recall probe"),
        ("--probe recall --data builtin", "--data = 'builtin': has no effect on a probe"),
        ("--probe recall --tokens 9", "--tokens = 9: has no effect"),
        ("--pairs 4 --seeds 2", "--seeds = 2: has no effect on text"),
        ("--probe state --group s6", "is not one of 'parity', 's3'"),
        ("--probe state --group s5 --steps 0", "at least 1"),
        ("--probe recall --pairs 8 --distance 30 --seq-len 48", "distance = 30: does not fit seq_len 48"),
        ("--probe recall --pairs 8 --alphabet 8", "alphabet: 16"),
    ],
)
def test_what_does_not_fit_is_refused(nas: Nas, architecture_file: Path, options: str, said: str) -> None:
    result = nas("eval", architecture_file, *options.split())
    assert result.exit_code == 2
    assert said in str(result.exception) + result.output


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "is missing"), ("{", "can't be read"), ("[]", "must hold an object"),
        ('{"model_type": "gpt2"}', "family"), ('{"model_type": "nas_hybrid"}', "not a valid architecture"),
    ],
)  # fmt: skip
def test_folders_that_are_no_model_are_refused(
    nas: Nas, tmp_path: Path, config: str | None, said: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    result = nas("eval", tmp_path, "--probe", "state", *QUICK)
    assert result.exit_code == 2
    assert said in str(result.exception)


def test_a_file_that_is_not_there_is_refused(nas: Nas, tmp_path: Path) -> None:
    result = nas("eval", tmp_path / "none.yaml", "--probe", "state", *QUICK)
    assert result.exit_code == 2
    assert "none.yaml" in str(result.exception)


def test_a_failed_training_is_told(
    nas: Nas, architecture_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studies.training.errors import TrainingFailed
    from studies.training.step import TrainStep

    def fail(self: TrainStep, number: int) -> tuple[float, float]:
        raise TrainingFailed(f"the loss became nan at step {number}")

    monkeypatch.setattr(TrainStep, "check", fail)
    result = nas("eval", architecture_file, "--probe", "state", *QUICK)
    assert result.exit_code == 1
    assert "training failed: in the state probe the loss became nan at step 1" in result.stderr


def test_the_defaults_are_those_of_space_files() -> None:
    text = MICRO.replace("objectives: {val_loss: min,", "objectives: {state: max, recall: max,")
    for name, probe in parse_space(text, "micro.yaml").proxy.probes.items():
        assert read_settings(name, {}) == probe


def test_spaces_show_their_probes(nas: Nas, tmp_path: Path) -> None:
    path = tmp_path / "probed.yaml"
    text = MICRO.replace("objectives: {val_loss: min,", "objectives: {state: max, recall: max,")
    path.write_text(text.replace("eval_tokens", "state: {group: s5, length: 9}, eval_tokens"))
    shown = nas("space", "show", path).stdout
    assert "words of 9 over s5" in shown
    assert "8 pairs in sequences of 48" in shown
    assert json.loads(nas("space", "show", path, "--json").stdout)["proxy"]["state"]["group"] == "s5"
