"""`nas bench ops`: operators beside dense, limits that are those of the arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from surgery.projections import PROJECTION_OPERATORS

Nas = Callable[..., Result]
SMALL = ("--tokens", "32", "--rounds", "1", "--rank", "4", "--blocks", "2")


def test_every_operator_beside_dense(nas: Nas) -> None:
    result = nas("bench", "ops", "--shapes", "16:3x16,16:2x32", *SMALL, "--json")
    report = json.loads(result.stdout)
    assert report["tokens"] == 32
    measured = report["measured"]
    assert [(item["siblings"], item["operator"]) for item in measured] == [
        (siblings, operator) for siblings in ("16 -> 3x16", "16 -> 2x32") for operator in PROJECTION_OPERATORS
    ]
    for item in measured:
        assert item["form"] == "eager"
        assert item["forward_ms"] > 0
        assert item["step_ms"] > 0
        assert item["bytes"] is None  # known on CUDA only
        assert item["of_limit"] == pytest.approx(item["ratio"] / item["limit"])
    dense, hdpl = measured[:2]
    assert dense["ratio"] == dense["limit"] == 1
    assert hdpl["ratio"] == pytest.approx(dense["step_ms"] / hdpl["step_ms"])
    # weights that a token meets: 16 x 16, against half of it, two encoders and a decoder of rank 4
    assert hdpl["limit"] == pytest.approx(256 / (128 + 3 * 64))


def test_as_a_table(nas: Nas) -> None:
    result = nas("bench", "ops", "--shapes", "16:3x16", *SMALL)
    assert "32 tokens, 2 blocks, rank 4" in result.stdout
    assert "16 -> 3x16" in result.stdout
    assert "0.80×" in result.stdout  # the limit


def test_what_does_not_fit_is_said(nas: Nas) -> None:
    result = nas("bench", "ops", "--shapes", "15:2x15", *SMALL, "--json")
    assert [item["operator"] for item in json.loads(result.stdout)["measured"]] == ["dense", "low_rank"]
    assert "must divide both 15 and 15" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--shapes", "16x16"), "'16x16' must have the form"), (("--kl", "mena"), "'mena' is not one of")],
)
def test_mistakes(nas: Nas, arguments: tuple[str, str], message: str) -> None:
    result = nas("bench", "ops", *arguments)
    assert result.exit_code == 2
    assert message in str(result.exception) + result.stderr
