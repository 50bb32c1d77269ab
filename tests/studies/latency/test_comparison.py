"""Sums of block times beside whole models: the figures that `nas bench latency` prints."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from studies.benchmarks.latency import SumAndWhole, agreement, compare
from studies.latency.work import Setup
from surgery.architecture import Architecture
from surgery.architecture.costs import cost_in_units
from tests.invented_times import invented_times, without_a_clock

BACKBONE = {"vocab_size": 32, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 16}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path))


def seconds() -> Iterator[float]:
    return map(float, count())


def test_blocks_and_models_are_timed_in_the_same_way() -> None:
    models = {
        letter: Architecture.from_dict({"backbone": BACKBONE, "layout": letter}) for letter in ("F", "G")
    }
    items = compare(models, ["prefill_ms@4"], Setup(torch.device("cpu")), clock=seconds().__next__)
    # whatever is called takes a second: a stack of two blocks, the rest, a whole model
    assert [(item.name, item.metric, item.sum_ms, item.whole_ms) for item in items] == [
        (letter, "prefill_ms@4", 2 * 500 + 2 * 500 + 1000, 1000) for letter in ("F", "G")
    ]
    assert [item.error for item in items] == [2.0, 2.0]


def test_times_of_a_study_are_used_on_its_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"F": Architecture.from_dict({"backbone": BACKBONE})}
    setup, known = Setup(torch.device("cpu")), invented_times()
    cost_in_units(models["F"], "decode_ms@4", known)  # fills the table
    for machine, asked_for in ((dict(known.machine), 0), ({"device": "another"}, 3)):
        monkeypatch.setattr("studies.latency.table.machine_of", lambda setup, machine=machine: machine)
        with without_a_clock() as asked:
            (item,) = compare(models, ["decode_ms@4"], setup, known, clock=seconds().__next__)
        assert len(asked) == asked_for
        assert item.sum_ms == cost_in_units(models["F"], "decode_ms@4", invented_times())


def test_agreement() -> None:
    pairs = [(1.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    items = [SumAndWhole("", "", "decode_ms@4", summed, whole, 0.0, False) for summed, whole in pairs]
    (result,) = agreement(items)
    factor = (2 * 2 * 1.5) ** (1 / 3)
    assert result.factor == pytest.approx(factor)
    assert result.error == pytest.approx((0.5 + 0.5 + 1 / 3) / 3)
    assert result.largest == 0.5
    assert result.scaled_error == pytest.approx((2 * abs(factor / 2 - 1) + abs(factor / 1.5 - 1)) / 3)
    assert result.tau == 1
    assert agreement(items[:1])[0].to_dict()["tau"] is None
