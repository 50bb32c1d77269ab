"""`nas bench latency`: sums of block times beside whole models, whose times are invented here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from studies.benchmarks import latency
from studies.latency.measure import Measured
from surgery.architecture import Architecture
from surgery.architecture.costs import cost_in_units
from tests.invented_times import invented_times, without_a_clock

Nas = Callable[..., Result]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path))


@pytest.fixture(autouse=True)
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole models take twice as long as their blocks."""

    def whole(architecture: Architecture, metric: str, length: int, *rest: object) -> Measured:
        summed = cost_in_units(architecture, f"{metric}@{length}", invented_times())
        return Measured(2 * summed / 1000, 0.1, False)

    monkeypatch.setattr(latency, "measure_model", whole)


def test_random_architectures_of_a_space(nas: Nas) -> None:
    options = ("--space", "tiny", "--random", 3, "--seed", 1, "--metrics", "decode_ms@8,prefill_ms@8")
    with without_a_clock():
        printed = json.loads(nas("bench", "latency", *options, "--json").stdout)
        shown = nas("bench", "latency", *options).stdout
    assert [item["metric"] for item in printed["models"]] == ["decode_ms@8", "prefill_ms@8"] * 3
    assert [item["error"] for item in printed["models"]] == pytest.approx([-0.5] * 6)
    assert [item["factor"] for item in printed["agreement"]] == pytest.approx([2.0, 2.0])
    assert "take 2.000 times the sum, which leaves 0.0%" in " ".join(shown.split())
    assert printed["models"][0]["line"] in shown


def test_the_front_of_a_study(nas: Nas, study_folder: Path) -> None:
    options = (study_folder.name, "--dir", study_folder.parent, "--metrics", "prefill_ms@8", "--json")
    with without_a_clock():
        printed = json.loads(nas("bench", "latency", *options).stdout)
    front = json.loads(nas("front", study_folder.name, "--dir", study_folder.parent, "--json").stdout)
    assert [item["line"] for item in printed["models"]] == [item["architecture"] for item in front["front"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "is needed, or --space"),
        (("study", "--space", "tiny"), "is needed, or --space"),
        (("study", "--random", "3"), "--random"),
        (("--space", "tiny", "--metrics", "params"), "is no latency"),
        (("--space", "tiny", "--metrics", "decode_ms"), "needs a context"),
    ],
)
def test_mistakes(nas: Nas, arguments: tuple[str, ...], message: str) -> None:
    result = nas("bench", "latency", *arguments)
    assert result.exit_code == 2
    assert message in str(result.exception)
