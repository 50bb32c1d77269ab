"""`nas bench`: every mixer timed, and costs that are those computed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from surgery.costs import cost
from tests.models import architecture

Nas = Callable[..., Result]


def test_mixers_side_by_side(nas: Nas) -> None:
    result = nas(
        "bench", "mixers", "--mixers", "FGWSK", "--lengths", "16,40", "--dim", "32", "--heads", "4",
        "--batch-tokens", "64", "--rounds", "1", "--window", "8", "--json",
    )  # fmt: skip
    timings = json.loads(result.stdout)["timings"]
    assert [(item["length"], item["mixer"]) for item in timings] == [
        (length, letter) for length in (16, 40) for letter in "FGWSK"
    ]
    for item in timings:
        assert item["train_ms"] > 0 < item["decode_ms"]
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
    ("arguments", "told"), [(("--mixers", "FX"), "'X' is not a mixer"), (("--lengths", "16,none"), "none")]
)
def test_mistakes(nas: Nas, arguments: tuple[str, str], told: str) -> None:
    result = nas("bench", "mixers", *arguments)
    assert result.exit_code == 2
    assert told in str(result.exception) + result.stderr
