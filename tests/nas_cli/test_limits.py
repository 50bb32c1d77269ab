"""Numbers beyond reason are refused at the edge: seeds, counts, rates, sizes that no memory holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Nas = Callable[..., Result]

SPACE = """\
name: large
backbone: {{vocab_size: 512, dim: 32, num_layers: 2, num_heads: 2, ffn_dim: {ffn}, tie_embeddings: true}}
search: {{backbone.ffn_dim: {{choice: [64, 96]}}}}
constraints: ["params <= 60k"]
objectives: {{val_loss: min, params: min}}
{baselines}
proxy: {{tokens: 4096, seq_len: 64, batch_tokens: 256, rungs: [0.5, 1.0], eval_tokens: 1024}}
data: {{corpus: builtin, tokenizer: "bpe:512"}}
"""


@pytest.mark.parametrize("value", [-1, 2**63, 10**30, "1.5", "x", ""])
@pytest.mark.parametrize(
    "command",
    [("search", "tiny"), ("space", "sample", "tiny"), ("train", "a.yaml", "-o", "o"),
     ("apply", "a.yaml", "m"), ("generate", "m", "text"), ("eval", "m")],
    ids=" ".join,
)  # fmt: skip
def test_a_seed_has_63_bits(nas: Nas, command: tuple[str, ...], value: object) -> None:
    result = nas(*command, "--seed", value)
    assert result.exit_code == 2
    assert "--seed" in result.output


def test_the_largest_seed_works(nas: Nas) -> None:
    result = nas("space", "sample", "tiny", "-n", 1, "--seed", 2**63 - 1, "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)) == 1


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e300", "1e-300", "x", ""])
@pytest.mark.parametrize("command", [("train", "a.yaml", "-o", "o"), ("apply", "a.yaml", "m", "-o", "o")])
def test_a_learning_rate_is_a_number_of_a_sensible_size(
    nas: Nas, command: tuple[str, ...], value: str
) -> None:
    result = nas(*command, "--lr", value)
    assert result.exit_code == 2
    assert "--lr" in result.output


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("train", "a.yaml", "-o", "o"), "--weight-decay"), (("train", "a.yaml", "-o", "o"), "--warmup"),
        (("generate", "m", "text"), "--temperature"), (("bench", "search"), "--until"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300"])
def test_other_numbers_are_finite(nas: Nas, command: tuple[str, ...], option: str, value: str) -> None:
    result = nas(*command, option, value)
    assert result.exit_code == 2
    assert option in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "tiny", "--workers", 10**6), ("search", "tiny", "--trials", 10**18),
        ("search", "tiny", "--threads", 10**6), ("refine", "s", "--workers", 10**6),
        ("refine", "s", "--each", 10**18), ("audit", "s", "--times", 10**18),
        ("audit", "s", "--workers", 10**6), ("audit", "s", "--seeds", 10**18),
        ("bench", "search", "--workers", 10**5),
        ("bench", "mixers", "--dim", 10**18), ("generate", "m", "x", "--tokens", 10**18),
        ("train", "a.yaml", "-o", "o", "--tokens", "9e18"),
        ("train", "a.yaml", "-o", "o", "--batch-tokens", 10**18), ("eval", "m", "--tokens", 10**40),
    ],
)  # fmt: skip
def test_counts_beyond_reason(nas: Nas, arguments: tuple[object, ...]) -> None:
    result = nas(*arguments)
    assert result.exit_code == 2
    text = result.output + str(result.exception)
    assert str(arguments[-2]) in text


@pytest.mark.parametrize("baselines", ["", "baselines: [dense, hdpl-paper]", "baselines: [lt2-looped]"])
def test_a_baseline_that_no_device_can_train_is_an_error(nas: Nas, tmp_path: Path, baselines: str) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(SPACE.format(ffn=10**9, baselines=baselines))
    result = nas("space", "validate", path, "--json")
    assert result.exit_code == 2
    (data,) = json.loads(result.stdout)
    for problem in data["problems"]:
        assert problem["field"].startswith("baselines")
        assert "192.0B parameters and takes 2.8 TiB to train" in problem["rule"] or (
            problem["value"] == "hdpl-paper"
        )
    assert len(data["problems"]) == max(1, baselines.count(",") + 1)


def test_a_baseline_beyond_this_machine_s_memory_is_a_warning_and_refused_in_a_search(
    nas: Nas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studies.training import devices

    path = tmp_path / "large.yaml"
    path.write_text(SPACE.format(ffn=1000, baselines=""))
    (data,) = json.loads(nas("space", "validate", path, "--json").stdout)
    assert data["warnings"] == []
    monkeypatch.setattr("search_spaces.space.machine_memory", lambda: 3_000_000)
    (data,) = json.loads(nas("space", "validate", path, "--json").stdout)
    (warning,) = data["warnings"]
    assert "baseline dense has 216.7k parameters and takes 3.3 MiB to train" in warning
    assert "this machine's memory of 2.9 MiB" in warning
    monkeypatch.setattr(devices, "machine_memory", lambda: 3_000_000)
    result = nas("search", path, "--dir", tmp_path / "runs", "--device", "cpu")
    assert result.exit_code == 2
    assert "baseline dense" in str(result.exception)
    assert not (tmp_path / "runs").exists()


def test_an_architecture_beyond_memory_is_refused_before_anything_is_prepared(
    nas: Nas, tmp_path: Path
) -> None:
    path = tmp_path / "huge.yaml"
    path.write_text(
        "backbone: {vocab_size: 512, dim: 4096, num_layers: 4096, num_heads: 32, ffn_dim: 2000000000}\n"
    )
    for command in (
        ("train", path, "-o", tmp_path / "out", "--device", "cpu"),
        ("eval", path, "--probe", "recall", "--device", "cpu"),
        ("bench", "model", path, "--device", "cpu"),
    ):
        result = nas(*command)
        assert result.exit_code == 2
        assert "bytes per parameter" in str(result.exception)
    assert [item.name for item in tmp_path.iterdir()] == ["huge.yaml"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_theta", "0"), ("rope_theta", "1e300"), ("rope_theta", ".nan"), ("rope_theta", ".inf"),
        ("norm_eps", "1e30"), ("norm_eps", "-1"), ("norm_eps", ".nan"), ("dim", "1" + "0" * 40),
        ("vocab_size", "4294967296"), ("num_layers", "1000000000"), ("max_position_embeddings", "1e18"),
    ],
)  # fmt: skip
def test_sizes_and_constants_that_no_model_has(nas: Nas, tmp_path: Path, field: str, value: str) -> None:
    text = SPACE.format(ffn=64, baselines="")
    backbone = {"vocab_size": "512", "dim": "32", "num_layers": "2"}
    if field in backbone:
        text = text.replace(f"{field}: {backbone[field]}", f"{field}: {value}")
    else:
        text = text.replace("tie_embeddings: true", f"tie_embeddings: true, {field}: {value}")
    path = tmp_path / "s.yaml"
    path.write_text(text)
    result = nas("space", "validate", path)
    assert result.exit_code == 2
    assert f"backbone.{field}" in result.output
