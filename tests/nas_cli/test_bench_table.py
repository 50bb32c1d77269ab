"""`nas bench table`: the shipped table for other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from typer.testing import Result

from studies.replay.public import open_table
from studies.replay.table import Table

Nas = Callable[..., Result]


def test_the_command_shows_and_writes(nas: Nas, tmp_path: Path) -> None:
    source = tmp_path / "some.json.gz"
    whole = Table.open()
    replace(whole, entries=dict([*whole.entries.items()][:40])).save(source)
    out = tmp_path / "out.parquet"
    shown = nas("bench", "table", "--table", source, "-o", out, "--syne-tune", tmp_path / "bb", "--json")
    assert json.loads(shown.stdout)["architectures"] == len(open_table(out).entries) == 40
    assert (tmp_path / "bb" / "metadata.json").is_file()
    assert nas("bench", "table", "--table", out, "-o", out).exit_code == 2
    assert nas("bench", "table", "-o", tmp_path / "out.csv").exit_code == 2
