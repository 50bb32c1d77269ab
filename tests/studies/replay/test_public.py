"""Tables as others read them: with pandas, and in Syne Tune's layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies.replay.public import open_table, write_parquet, write_syne_tune
from studies.replay.table import Table
from surgery.config.problems import UserError


@pytest.fixture(scope="module")
def table() -> Table:
    """Forty architectures, some with three runs."""
    whole = Table.open()
    some = dict([*whole.entries.items()][2:42])
    assert {len(entry.curves) for entry in some.values()} == {1, 3}
    return replace(whole, entries=some)


def test_a_parquet_table_is_read_as_it_was(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_parquet(table, path)
    again = open_table(path)
    assert again.entries == table.entries
    assert (again.fractions, again.about, again.space.text) == (
        table.fractions,
        table.about,
        table.space.text,
    )
    rows = pd.read_parquet(path)
    assert len(rows) == sum(len(entry.curves) for entry in table.entries.values()) * len(table.fractions)
    last = rows[rows.fraction == 1.0].groupby("architecture").val_loss.mean()
    assert last.to_dict() == pytest.approx({name: entry.loss for name, entry in table.entries.items()})


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    wrong, broken = tmp_path / "wrong.parquet", tmp_path / "broken.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(wrong)
    broken.write_text("no")
    for path in (wrong, broken, tmp_path / "none.parquet"):
        with pytest.raises(UserError, match="can't use this table"):
            open_table(path)


def test_the_layout_of_syne_tune(table: Table, tmp_path: Path) -> None:
    """Rows of settings and (task, row, seed, fidelity, objective), as its `deserialize` reads them."""
    write_syne_tune(table, tmp_path, "table")
    about = json.loads((tmp_path / "metadata.json").read_text())
    values = np.load(tmp_path / "objectives_evaluations.npy")
    tokens = np.load(tmp_path / "fidelities_values.npy")
    settings = pd.read_parquet(tmp_path / "hyperparameters.parquet")
    space = json.loads((tmp_path / "configspace.json").read_text())
    assert values.shape == (1, 40, 3, len(table.fractions), len(about["objectives_names"]))
    assert tokens[-1] == table.space.proxy.tokens
    assert not settings.duplicated().any()
    assert set(space) == set(settings.columns)
    for index, entry in enumerate(table.entries.values()):
        runs = len(entry.curves)
        assert values[0, index, :runs, :, 0] == pytest.approx(np.array(entry.curves))
        assert np.isnan(values[0, index, runs:, :, 0]).all()
        assert values[0, index, 0, 0, about["objectives_names"].index("params")] == entry.costs["params"]
        assert all(
            row in space[name]["domain_kwargs"]["categories"] for name, row in settings.iloc[index].items()
        )


def test_syne_tune_itself_reads_it(table: Table, tmp_path: Path) -> None:
    tabular = pytest.importorskip("syne_tune.blackbox_repository.blackbox_tabular", exc_type=ImportError)
    write_syne_tune(table, tmp_path, "table")
    blackbox = tabular.deserialize(str(tmp_path))["table"]
    entry = next(iter(table.entries.values()))
    measured = blackbox(
        blackbox.all_configurations()[0], fidelity={"tokens": table.space.proxy.tokens}, seed=0
    )
    assert measured["val_loss"] == pytest.approx(entry.curves[0][-1])
