"""`nas export`: every trial of a study in three formats, and the same table in Python."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from typer.testing import Result

from studies.storage.attributes import REPEAT, REPEAT_OF, RUNGS, SEEDS, TOKENS
from studies.study import Study
from surgery.architecture.metrics import METRICS
from tests.scored_study import CACHE, make_study

Nas = Callable[..., Result]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """With a replicate of trial 1, and a trial that only waits."""
    study = make_study(tmp_path / "runs")
    original = study.trial(1)
    repeat = study.inner.ask(fixed_distributions=original.distributions)
    for key, value in {**original.user_attrs, REPEAT_OF: 1, REPEAT: 1, SEEDS: [3, 5], TOKENS: 4096}.items():
        repeat.set_user_attr(key, value)
    repeat.set_user_attr(RUNGS, [2.5])
    study.inner.tell(repeat, [0.75, original.values[1]])
    study.inner.ask()
    return study


def test_a_row_for_every_trial(study: Study) -> None:
    table = study.to_dataframe()
    assert list(table["trial"]) == list(range(len(study.inner.trials)))
    assert table["status"].iloc[-1] == "running"
    assert table["status"].iloc[-2] == "repeat"
    repeat = table.iloc[-2]
    assert (repeat["repeat_of"], repeat["seeds"], repeat["tokens"]) == (1, "3 5", 4096)
    first = study.space.proxy.rungs[0]
    assert repeat[f"val_loss@{first:.0%}"] == 2.5
    for row in table.itertuples():
        stored = study.trial(row.trial)
        for name, value in stored.params.items():
            assert table.loc[row.Index, f"params.{name}"] == value
    kls = [trial.user_attrs.get("metrics", {}).get("kl") for trial in study.inner.trials]
    assert [None if pandas.isna(value) else value for value in table["kl"]] == kls
    front = {record.number for record in study.front()}
    assert set(table.loc[table["on_front"], "trial"]) == front
    assert front


def test_no_column_of_a_trial_is_named_like_a_metric(study: Study) -> None:
    columns = set(study.to_dataframe().columns)
    assert columns & METRICS.keys() <= {"kl", "params"}, "a metric would replace what the trial is"
    assert "status" in columns
    assert "state" not in columns


def test_formats_hold_the_same(nas: Nas, study: Study, tmp_path: Path) -> None:
    wanted = study.to_dataframe()
    for suffix in ("csv", "parquet", "jsonl"):
        file = tmp_path / f"trials.{suffix}"
        result = nas("export", study.name, "--dir", study.folder.parent, "-o", file)
        assert result.exit_code == 0, result.output
        assert f"wrote {len(wanted)} trials" in result.stderr
        assert result.stdout == ""
    read = pandas.read_parquet(tmp_path / "trials.parquet")
    assert list(read.columns) == list(wanted.columns)
    assert read["kl"].tolist() == wanted["kl"].tolist()
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert len(lines) == len(rows) == len(wanted)
    for line, row, cost in zip(lines, rows, wanted[CACHE], strict=True):
        assert list(line) == list(row) == list(wanted.columns)
        assert line["architecture"] == (row["architecture"] or None)
        if not pandas.isna(cost):
            assert line[CACHE] == float(row[CACHE]) == cost


def test_to_standard_output(nas: Nas, study: Study) -> None:
    result = nas("export", study.name, "--dir", study.folder.parent)
    assert len(list(csv.DictReader(io.StringIO(result.stdout)))) == len(study.inner.trials)


def test_refusals(nas: Nas, study: Study, tmp_path: Path) -> None:
    result = nas("export", study.name, "--dir", study.folder.parent, "-o", tmp_path / "trials.xls")
    assert "must end with .csv, .parquet or .jsonl" in str(result.exception)
    taken = tmp_path / "trials.csv"
    taken.write_text("mine")
    result = nas("export", study.name, "--dir", study.folder.parent, "-o", taken)
    assert "add --overwrite" in str(result.exception)
    assert taken.read_text() == "mine"
    assert nas("export", study.name, "--dir", study.folder.parent, "-o", taken, "--overwrite").exit_code == 0
    assert taken.read_text().startswith("trial,")
    result = nas("export", study.name, "--dir", study.folder.parent, "-o", tmp_path / "no" / "trials.csv")
    assert "non-existent directory" in str(result.exception)
