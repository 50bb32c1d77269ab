"""`nas bench`: everything asked for is timed, and costs are those computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from studies.benchmarks.bare import BareModel
from studies.benchmarks.trial import PHASES, TrialTiming, _middle
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.model import HybridLM
from tests.models import architecture

from .conftest import MICRO

Nas = Callable[..., Result]


def test_mixers_side_by_side(nas: Nas) -> None:
    result = nas(
        "bench", "mixers", "--mixers", "FGDWSK", "--lengths", "16,40", "--dim", "32", "--heads", "4",
        "--batch-tokens", "64", "--rounds", "1", "--window", "8", "--json",
    )  # fmt: skip
    timings = json.loads(result.stdout)["timings"]
    assert [(item["length"], item["mixer"]) for item in timings] == [
        (length, letter) for length in (16, 40) for letter in "FGDWSK"
    ]
    for item in timings:
        assert item["train_ms"] > 0 < item["decode_ms"]
        assert item["forward_ms"] > 0 < item["of_peak"]
        arch = architecture(
            item["mixer"], dim=32, num_heads=4, num_kv_heads=4, head_dim=8, num_layers=1,
            mixers={"W": {"window": 8}},
        )  # fmt: skip
        assert item["cache_bytes"] == cost(arch, f"cache_bytes@{item['length']}")
        assert item["batch"] == 64 // item["length"]


def test_whole_models_as_a_table(nas: Nas) -> None:
    result = nas(
        "bench", "mixers", "--mixers", "FG", "--lengths", "16", "--dim", "32", "--heads", "4",
        "--batch-tokens", "32", "--rounds", "1", "--layers", "2", "--no-decode",
    )  # fmt: skip
    assert "2-layer models" in result.stdout
    assert "1.00×" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mixers", "FX"), "'X' is not a mixer"),
        (("--mixers", "FN"), "has no mixer to time alone (give --layers"),
        (("--lengths", "16,none"), "none"),
    ],
)
def test_mistakes(nas: Nas, arguments: tuple[str, str], message: str) -> None:
    result = nas("bench", "mixers", *arguments)
    assert result.exit_code == 2
    assert message in str(result.exception) + result.stderr


def test_models_side_by_side(nas: Nas, architecture_file: Path, tmp_path: Path) -> None:
    (tmp_path / "micro.yaml").write_text(MICRO)
    result = nas(
        "bench", "model", str(architecture_file), "dense", "gka-hybrid-matched", "--space",
        str(tmp_path / "micro.yaml"), "--rounds", "2", "--steps", "1", "--json",
    )  # fmt: skip
    data = json.loads(result.stdout)
    assert (data["compile"], data["compiled"]) == ("auto", False)
    assert (data["seq_len"], data["batch_tokens"]) == (32, 256)  # the space's
    names = [item["name"] for item in data["timings"]]
    assert names == [str(architecture_file), "dense", "gka-hybrid-matched", "bare loop"]
    for item in data["timings"]:
        assert item["tokens_per_s"] == pytest.approx(256_000 / item["step_ms"])
        assert min(item["forward_ms"], item["backward_ms"], item["optimizer_ms"], item["of_peak"]) > 0
        assert item["bytes"] is None  # of a CPU nothing is known
    assert data["timings"][0]["params"] == cost(Architecture.from_yaml(architecture_file), "params")


def test_models_as_a_table(nas: Nas, architecture_file: Path) -> None:
    result = nas(
        "bench", "model", str(architecture_file), "--seq-len", "16", "--batch-tokens", "32", "--rounds", "1",
        "--steps", "1", "--no-bare", "--threads", str(torch.get_num_threads()),
    )  # fmt: skip
    assert "1.00×" in result.stdout
    assert "bare loop" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dense",), "give --space"),
        (("densee", "--space", "tiny"), 'did you mean "dense"'),
        (("none.yaml",), "neither a file nor a baseline"),
    ],
)
def test_models_that_are_none(nas: Nas, arguments: tuple[str, ...], message: str) -> None:
    result = nas("bench", "model", *arguments)
    assert result.exit_code == 2
    assert message in str(result.exception)


@pytest.mark.parametrize("tied", [False, True])
def test_bare_loop_is_the_dense_model(tied: bool) -> None:
    """The bare loop has as many parameters and, given the weights, the same logits: nothing is left out."""
    torch.manual_seed(0)
    ours = HybridLM(architecture(tie_embeddings=tied)).eval()
    sizes = ours.architecture.backbone
    bare = BareModel(sizes, 9)
    assert sum(p.numel() for p in bare.parameters()) == cost(ours.architecture, "params")
    state = {name: tensor for name, tensor in ours.state_dict().items() if not name.startswith("layers")}
    for index, block in enumerate(ours.layers):
        mixer, ffn, to = block.mixer, block.ffn, f"blocks.{index}"
        state[f"{to}.norms.0.weight"], state[f"{to}.norms.1.weight"] = (
            block.mixer_norm.weight, block.ffn_norm.weight,
        )  # fmt: skip
        state[f"{to}.qkv.weight"] = torch.cat([mixer.q.weight, mixer.k.weight, mixer.v.weight])
        state[f"{to}.gate_up.weight"] = torch.cat([ffn.gate.weight, ffn.up.weight])
        state[f"{to}.o.weight"], state[f"{to}.down.weight"] = mixer.o.weight, ffn.down.weight
    bare.load_state_dict(state)
    tokens = torch.randint(37, (2, 9))
    torch.testing.assert_close(bare(tokens), ours.head(ours(tokens)), rtol=1e-4, atol=1e-5)


def test_where_a_trial_goes(nas: Nas, tmp_path: Path) -> None:
    (tmp_path / "micro.yaml").write_text(MICRO)
    result = nas("bench", "trial", str(tmp_path / "micro.yaml"), "--baseline", "lt2-looped", "--json")
    first, second, other = json.loads(result.stdout)["trials"]
    assert first["val_loss"] == second["val_loss"] == other["val_loss"]  # one seed, whatever the process
    assert second["seconds"]["start"] == 0 < min(first["seconds"]["start"], other["seconds"]["start"])
    for item in (first, second, other):
        assert set(item["seconds"]) == set(PHASES)
        assert item["total"] == pytest.approx(sum(item["seconds"].values()))
        assert 0 < item["first_step_s"] < item["total"]
        assert 0 < item["overhead"] < 1
        assert item["spread"] == 0  # of one round


def test_medians_of_trials() -> None:
    """The middle is taken of each phase for itself; the spread is that of whole trials."""
    rounds = [
        TrialTiming("first", {**dict.fromkeys(PHASES, 0.0), "forward": forward, "data": data}, first, 4.5)
        for forward, data, first in ((8.0, 1.0, 0.3), (10.0, 3.0, 0.1), (9.0, 2.0, 0.2))
    ]
    result = _middle(rounds)
    assert (result.seconds["forward"], result.seconds["data"], result.first_step_s) == (9.0, 2.0, 0.2)
    assert (result.total, result.val_loss) == (11.0, 4.5)
    assert result.spread == pytest.approx((13 - 9) / 11)


def test_a_trial_of_no_baseline(nas: Nas) -> None:
    result = nas("bench", "trial", "tiny", "--baseline", "gka")
    assert result.exit_code == 2
    assert "is not a baseline of the space" in str(result.exception)
