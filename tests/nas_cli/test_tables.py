"""Tables fit the terminal: no word is broken, and what has no room is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from rich.text import Text
from typer.testing import Result

from nas_cli.render.fitted import Column, fitted_table, shorten
from nas_cli.render.screen import console
from studies.storage.attributes import ARCHITECTURE, HASH, LINE, METRICS, REPEAT, REPEAT_OF
from studies.study import Study
from surgery.config.quantities import format_bytes
from tests.scored_study import CACHE, make_study

LONG = "WWFGWWFGWWFG·hdpl[qkvo,gud]@0-5,8 b16 r128 free_bits:0.00012·loop 4"


@pytest.fixture
def width() -> Iterator[Callable[[int], None]]:
    """Sets the width of the terminal; afterwards it is what it was."""
    before = console._width
    yield lambda columns: setattr(console, "width", columns)
    console._width = before


def shown(table: object) -> list[str]:
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def example() -> object:
    columns = [
        Column("design", least=10, justify="left"), Column("val_loss", rank=2),
        Column("architecture", rank=3, least=16, justify="left"), Column("better by", rank=1),
        Column("verdict"),
    ]  # fmt: skip
    rows = [["#0 dense", "4.3421", Text(LONG), "0.0109 ±0.0021", "can't tell yet"]] * 2
    return fitted_table(columns, rows, "a table")


def test_with_room_everything_is_whole(width: Callable[[int], None]) -> None:
    width(160)
    lines = shown(example())
    assert len(lines) == 4
    assert LONG in lines[2]
    assert "better by" in lines[1]


@pytest.mark.parametrize("columns", [120, 100, 80, 60, 40])
def test_rows_stay_one_line_each_and_the_verdict_is_whole(width: Callable[[int], None], columns: int) -> None:
    width(columns)
    lines = shown(example())
    assert max(map(len, lines)) <= columns
    rows = [line for line in lines if line.startswith("#0 dense")]
    assert len(rows) == 2
    assert all(row.endswith("can't tell yet") for row in rows)
    hidden = next((line for line in lines if line.startswith("no room for")), "")
    text = " ".join(lines)
    for head in ("architecture", "better"):
        assert (head in text.partition("no room for")[0]) != (head in text.partition("no room for")[2])
    assert bool(hidden) == (columns < 80)


def test_the_named_width_has_room(width: Callable[[int], None]) -> None:
    width(60)
    wide = int(re.findall(r"(\d+) columns have it", " ".join(shown(example())))[0])
    width(wide)
    assert "no room for" not in " ".join(shown(example()))
    width(wide - 1)
    assert "no room for" in " ".join(shown(example()))


def test_names_are_shortened_in_the_middle() -> None:
    assert shorten(Text("hdpl-paper"), 10).plain == "hdpl-paper"
    assert shorten(Text("abcdefghij"), 7).plain == "abc…hij"
    assert shorten(Text("abcdefghij", style="bold"), 4).plain == "ab…j"


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("options", [(), ("--all",), ("--baselines",)])
def test_fronts_of_pretrained_models_keep_their_numbers(
    nas: Callable[..., Result], tmp_path: Path, width: Callable[[int], None], columns: int,
    options: tuple[str, ...],
) -> None:  # fmt: skip
    make_study(tmp_path)
    width(columns)
    text = nas("front", "hybrid", *options, "--dir", tmp_path).stdout
    assert "#0 original" in text
    assert "0.0150" in text
    if options == ("--baselines",):
        assert text.count("can't tell yet") == 1
        assert "not beaten" in text
    for line in text.splitlines():
        assert len(line) <= columns or "nas refine" in line  # a command stays in one line, to be copied


def repeat(study: Study) -> None:
    """Measure every design a second time."""
    for record in [item for item in study.records() if item.values is not None]:
        kl, *costs = record.values or ()
        attributes = {ARCHITECTURE: record.architecture, LINE: record.line, HASH: record.hash}
        attributes[METRICS] = {**record.metrics, "kl": 1.1 * kl}
        study.inner.add_trial(
            optuna.trial.create_trial(
                values=[1.1 * kl, *costs], user_attrs={**attributes, REPEAT_OF: record.number, REPEAT: 1}
            )
        )


@pytest.mark.parametrize("columns", [50, 60, 80, 120])
def test_fronts_with_replicates_keep_headers_and_numbers(
    nas: Callable[..., Result], tmp_path: Path, width: Callable[[int], None], columns: int
) -> None:
    study = make_study(tmp_path)
    repeat(study)
    rows = json.loads(nas("front", "hybrid", "--dir", tmp_path, "--json").stdout)["front"]
    nas("pick", "hybrid", "--dir", tmp_path, "--trial", rows[-1]["number"])
    width(columns)
    text = nas("front", "hybrid", "--dir", tmp_path).stdout
    table = text.partition("kl in nats/token")[0]
    assert all(len(line) <= columns for line in table.splitlines())
    hidden = table.partition("no room for")[2].partition(":")[0].replace("\n", " ")
    pieces = {"runs", "P(front)", "kl", "@1024"} - set(hidden.split(", "))
    pieces |= {word for head in ("can't", "architecture") if head not in hidden for word in (head,)}
    words = table.split()
    assert pieces <= set(words)
    for row in rows:
        assert f"#{row['number']}" in words
        if row["number"]:
            assert f"{row['metrics']['kl']:.4f}" in words
            assert any(word.startswith("±") and len(word) == len("±0.0000") for word in words)
        assert format_bytes(row["metrics"][CACHE]) in " ".join(words)
    assert ("architecture" in hidden) == (columns < 80)
    signs = " ".join(text.partition("kl in nats/token")[2].split())  # it wraps in narrow terminals
    assert "★ knee, ◇ picked" in signs
    (knee,) = [line for line in table.splitlines() if "★" in line]
    assert f"#{next(row['number'] for row in rows if row['knee'])} " in knee
    (picked,) = [line for line in table.splitlines() if "◇" in line]
    assert picked.startswith(f"#{rows[-1]['number']} ")


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", ["front", "front --baselines", "front --all", "show --importances"])
def test_screens_of_a_study_break_no_word(
    nas: Callable[..., Result], study_folder: Path, width: Callable[[int], None], columns: int, command: str
) -> None:
    width(columns)
    name, *options = command.split()
    text = nas(name, study_folder, *options).stdout
    pieces = [line.split() for line in text.splitlines()]
    letters = [line for line in pieces if line and all(len(word) <= 2 and word.isalpha() for word in line)]
    assert letters == []
