"""Tables of designs of a pretrained model: short names, and layouts that are not torn apart."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import Result

from nas_cli.render.screen import console
from nas_cli.render.tables import trial_table
from search_spaces import parse_space
from search_spaces.catalog import load_space
from studies.reporting.dashboard_notes import trial_note
from studies.reporting.study_note import study_note
from studies.study import Study
from studies.study.trial_names import Names
from tests.nas_cli.conftest import MICRO
from tests.scored_study import W32, make_study

OPERATORS = """
search:
  layers.ffn:
    choice: [keep, hdpl: {match: [gate, up], blocks: 4, rank: 8},
             low_rank: {match: [gate, up, down], rank: 8}, low_rank: {match: [gate, up, down], rank: 16}]
objectives: {kl: min, params: min}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("names") / "runs", scored=False)


def test_names_and_designs_are_short(study: Study) -> None:
    names, records = Names(study.space), study.records()
    measured = [record for record in records if record.state == "trained"]
    assert [names.name(record).split(" ", 1)[1:] for record in measured] == [
        ["original"], ["lowest W 32 4 75%"], [], [],
    ]  # fmt: skip
    assert [names.design(record) for record in measured] == [
        "FFFF", "FFWW W[32,4]×2", "FWWF W[32,4]×1 W[8,4]×1 ffn[64]×1", "FNNW W[8,4]×1 ffn[none]×1",
    ]  # fmt: skip


def test_an_operator_has_only_what_tells_it_from_others(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OPERATORS)
    assert study.space.model is not None
    space = load_space(path, study.space.model)
    assert space.replacements is not None
    labels = next(part.labels for part in space.replacements.parts if part.part == "ffn")
    names = Names(space)
    tags = [names._tags["ffn", label] for label in labels[1:]]
    assert tags == ["ffn[hdpl]", "ffn[low_rank,r8]", "ffn[low_rank,r16]"]


def test_other_studies_keep_their_names(study: Study) -> None:
    record = study.records()[-1]
    names = Names(parse_space(MICRO, "micro.yaml"))
    assert (names.name(record), names.design(record)) == (record.name, record.line)


def test_a_design_has_one_name_on_screens_in_notes_pages_and_pictures(
    nas: Callable[..., Result], tmp_path: Path
) -> None:
    study = make_study(tmp_path / "runs")
    names, long = Names(study.space), f"lowest {W32} 75%"
    where = ("hybrid", "--dir", study.folder.parent)
    page = tmp_path / "page.html"
    assert nas("report", *where, "-o", page).exit_code == 0
    screens = {
        "nas front": nas("front", *where).stdout,
        "note": study_note(study),
        "nas report": html.unescape(page.read_text()),
    }
    for record in study.front():
        name, design = names.name(record), names.design(record)
        every = {
            **screens,
            "nas show": nas("show", "hybrid", record.number, *where[1:]).stdout,
            "nas pick": nas("pick", *where, "--trial", record.number).stdout,
            "note of the trial": trial_note(study, record),
        }
        for screen, text in every.items():
            assert name in text, screen
            assert design in text, screen
            assert long not in text, screen
    assert long not in nas("front", *where, "--baselines").stdout


@pytest.mark.parametrize("width", [50, 120])
def test_words_stay_whole(study: Study, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", width)
    screen = Console(width=width)
    records = [record for record in study.records() if record.state == "trained"]
    with screen.capture() as printed:
        screen.print(trial_table(records, study.space))
    text = printed.get()
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines)
    for word in ("FNNW", "W[32,4]×2", "ffn[none]×1", "bytes", "@1024"):
        assert word in text
    assert any("lowest W 32 4 75%" in line for line in lines) == (width == 120)
    one_line = trial_table(records, study.space, one_line=True)
    assert len(screen.render_lines(one_line)) == len(records) + (2 if width == 120 else 3)


def test_a_narrow_terminal_has_no_column_of_torn_layouts(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 42)
    table = trial_table([record for record in study.records() if record.state == "trained"], study.space)
    assert [column.header for column in table.columns] == ["trial", "kl", "cache_bytes\n@1024"]
    assert "no room for architecture: 50 columns have it" in str(table.caption)
