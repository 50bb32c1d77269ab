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


def test_tables_and_numbers_of_workers_side_by_side(nas: Nas, part: Path, tmp_path: Path) -> None:
    part_of_table().save(tmp_path / "other.json.gz")
    methods = "gain/none,gain+pool/none,random/none"
    run = (
        "bench", "search", "--table", part, "--table", tmp_path, "--methods", methods, "--seeds", 2,
        "--trials", 10, "--workers-simulated", "2,9",
    )  # fmt: skip
    lines = nas(*run).stdout.splitlines()
    rows = [line.split() for line in lines if line.startswith(("part", "other"))]
    assert [row[0] for row in rows] == ["part", "part", "other", "other"]
    assert [row[2] for row in rows] == ["2", "9", "2", "9"]
    assert "gain+pool/none" in " ".join(lines)
    searches = json.loads(nas(*run, "--json").stdout)["searches"]
    assert [(item["table"]["name"], item["workers"]) for item in searches] == [
        ("part", 2), ("part", 9), ("other", 2), ("other", 9),
    ]  # fmt: skip
    assert [row["method"] for row in searches[0]["methods"]] == methods.split(",")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "gian/none"), 'did you mean "gain"'),
        (("--rungs", "0.2,1"), "points are 0.04, 0.07"),
        (("--rungs", "x"), "must be numbers such as"),
        (("--rival", "moasha.jsonl"), "must have the form"),
        (("--rival", "moasha=none.jsonl"), "No such file"),
        (("--plot", "curves.bmp"), "must end in"),
        (("--workers-simulated", "4,0"), "positive whole numbers"),
        (("--table", "no-such-table"), "can't be read"),
    ],
)
def test_mistakes(nas: Nas, arguments: tuple[str, str], message: str) -> None:
    result = nas("bench", "search", *arguments)
    assert result.exit_code == 2
    assert message in str(result.exception) + result.stderr.replace("\n", " ")
