"""`nas bench search`: a table and JSON that say the same on every run, plots, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.studies.replay.part import part_of_table

Nas = Callable[..., Result]
FEW = ("bench", "search", "--methods", "gain/forecast,random/none", "--seeds", "2", "--trials", "14")


def without_ms(text: str) -> Any:
    data = json.loads(text)
    for row in data["methods"]:
        assert row.pop("ms") > 0 < row.pop("last_ms")
    return data


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "part.json.gz"
    part_of_table().save(path)
    return path


def test_json_is_stable(nas: Nas, part: Path) -> None:
    first, second = (nas(*FEW, "--table", part, "--rungs", "0.1,0.3,1", "--json").stdout for _ in range(2))
    result = without_ms(first)
    assert result == without_ms(second)
    assert result["rungs"] == [0.1, 0.3, 1.0]
    assert [row["method"] for row in result["methods"]] == ["gain/forecast", "random/none"]
    for row in result["methods"]:
        assert row["duplicates"] == 0
        assert row["lost"] is None
        assert set(row["tokens"]) == {"0.9", "0.95", "0.99"}


def test_table_and_plots(nas: Nas, part: Path, tmp_path: Path) -> None:
    for name in ("curves.png", "curves.html"):
        result = nas(
            *FEW, "--table", part, "--seeds", 1, "--trials", 8, "--to-end", "--plot", tmp_path / name
        )
        assert "gain/forecast" in result.stdout
        assert "front lost" in result.stdout
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "gian/none"), 'did you mean "gain"'),
        (("--rungs", "0.2,1"), "points are 0.04, 0.07"),
        (("--rungs", "x"), "must be numbers such as"),
        (("--rival", "moasha.jsonl"), "must have the form"),
        (("--rival", "moasha=none.jsonl"), "No such file"),
        (("--plot", "curves.bmp"), "must end in"),
    ],
)
def test_mistakes(nas: Nas, arguments: tuple[str, str], message: str) -> None:
    result = nas("bench", "search", *arguments)
    assert result.exit_code == 2
    assert message in str(result.exception) + result.stderr.replace("\n", " ")
