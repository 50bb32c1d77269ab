"""A study knows what was picked in it, and every screen, page and table of it says so."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from typer.testing import Result

from studies.analysis.limits import stored_limits
from studies.analysis.marks import Marks
from studies.analysis.pick import PickRequest, choose
from studies.analysis.standings import Standings
from studies.reporting.dashboard_notes import Notes, trial_note
from studies.reporting.figure import Panel
from studies.reporting.front_plot import front_figure
from studies.reporting.study_note import study_note
from studies.storage.attributes import ARCHITECTURE, HASH, LINE, METRICS, REASON, REPEAT_OF
from studies.storage.optuna_access import as_trial
from studies.study import Study
from studies.study.picks import read_picks
from studies.study.trial_record import TrialRecord
from surgery.architecture import Architecture
from tests.nas_cli.test_dashboard import pause
from tests.picks import pick_trial
from tests.scored_study import make_study

Nas = Callable[..., Result]
CACHE = "cache_bytes@1024"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "runs")


@pytest.fixture
def run(nas: Nas, study: Study) -> Nas:
    """Runs a command on the study."""

    def run(command: str, *args: object) -> Result:
        return nas(command, study.name, *args, "--dir", study.folder.parent)

    return run


def add(study: Study, state: optuna.trial.TrialState, **attributes: Any) -> int:
    """Add a trial that is not trained, and return its number."""
    values = [1.0] * len(study.space.objectives) if state == optuna.trial.TrialState.COMPLETE else None
    study.inner.add_trial(optuna.trial.create_trial(state=state, values=values, user_attrs=attributes))
    return len(study.records()) - 1


def test_every_pick_is_in_the_study(run: Nas, study: Study, tmp_path: Path) -> None:
    assert read_picks(study.inner) == []
    file = tmp_path / "pick.yaml"
    assert run("pick", "-o", file).exit_code == 0
    assert run("pick", "--limit", "kl<=2", "--best", CACHE).exit_code == 0
    limited, first = read_picks(study.inner)  # the newest first
    standings = Standings.of(study)
    assert first.trial == choose(standings, [], None).record.number
    assert (first.best, first.asked, first.limits, first.output) == (None, False, (), str(file))
    assert first.hash == Architecture.from_yaml(file).hash
    assert (limited.best, limited.output) == (CACHE, None)
    assert limited.limits == ("kl <= 2.0000",)
    assert limited.reason.startswith(f"best {CACHE} of")

    run("pick", "--trial", first.trial)
    again, other = read_picks(Study.open(str(study.folder)).inner)  # as another machine reads it
    assert (again.trial, again.asked, again.output) == (first.trial, True, None)
    assert other == limited


def test_every_reading_command_knows_them(run: Nas, study: Study, tmp_path: Path) -> None:
    number = json.loads(run("pick", "--best", "kl", "-o", tmp_path / "pick.yaml", "--json").stdout)["number"]
    front = json.loads(run("front", "--json").stdout)["front"]
    assert [row["number"] for row in front if row["picked"]] == [number]
    marks = Marks.of(study, Standings.of(study))
    assert [row["number"] for row in front if row["knee"]] == [marks.knee]
    assert json.loads(run("show", number, "--json").stdout)["picked"]
    assert ", picked" in run("show", number).stdout
    (pick,) = json.loads(run("show", "--json").stdout)["picks"]
    assert pick == {**marks.picks[0].to_dict(), "overtaken_by": None}
    assert f"picked {marks.picks[0].describe()}" in run("show").stdout
    rows = list(csv.DictReader(io.StringIO(run("front", "--csv", "-").stdout)))
    assert [int(row["trial"]) for row in rows if row["picked"] == "True"] == [number]
    assert [int(row["trial"]) for row in rows if row["knee"] == "True"] == [marks.knee]
    rows = list(csv.DictReader(io.StringIO(run("export").stdout)))
    assert [int(row["trial"]) for row in rows if row["picked"] == "True"] == [number]


def test_the_knee_is_the_same_everywhere(run: Nas, study: Study, tmp_path: Path) -> None:
    standings = Standings.of(study)
    number = json.loads(run("pick", "--json").stdout)["number"]
    name = standings.names.name(study.records()[number])
    (panel,) = front_figure(study, standings).panels
    assert isinstance(panel, Panel)
    (star,) = [series for series in panel.series if series.name == "knee"]
    assert [text.split("<br>")[0] for text in star.hover] == [name]
    assert f"**{name}** (knee, picked)" in study_note(study)
    run("report", "-o", tmp_path / "page.html")
    assert f"The knee of the front: {name}" in (tmp_path / "page.html").read_text()
    (row,) = [line for line in run("front").stdout.splitlines() if "★◇" in line]
    assert row.startswith(name)


def measure(study: Study, like: TrialRecord, kl: float, cache: float) -> int:
    """Add a design of these results, with the architecture of another one, and return its number."""
    metrics = {**like.metrics, "kl": kl, CACHE: cache}
    attributes = {ARCHITECTURE: like.architecture, LINE: like.line, HASH: f"{kl}", METRICS: metrics}
    study.inner.add_trial(optuna.trial.create_trial(values=[kl, cache], user_attrs=attributes))
    return len(study.records()) - 1


def test_a_pick_that_is_beaten_later_was_then_the_best(run: Nas, study: Study, tmp_path: Path) -> None:
    run("pick", "--limit", f"{CACHE}<=60%", "--best", "kl", "-o", tmp_path / "mine.yaml")
    (pick,) = read_picks(study.inner)
    like = study.records()[pick.trial]
    kl, cache = like.metrics["kl"], like.metrics[CACHE]
    notes = Notes(study)
    notes.write()
    measure(study, like, kl / 2, 2 * cache)  # beyond the limit
    measure(study, like, 2 * kl, cache / 2)  # cheaper, but worse
    assert Marks.of(study, Standings.of(study)).overtaken == {}
    assert "now #" not in run("show").stdout
    better = measure(study, like, kl / 2, cache)
    text = f"then the best kl within {CACHE} <= 307.2 KiB; now #{better} is: {kl / 2:.4f} against {kl:.4f}"
    for shown in (
        run("show").stdout, run("front").stdout, run("show", pick.trial).stdout, study_note(study),
    ):  # fmt: skip
        assert f"{text}, and it is no longer on the front" in shown
    (listed,) = json.loads(run("show", "--json").stdout)["picks"]
    assert listed["overtaken_by"] == better
    run("report", "-o", tmp_path / "page.html")
    assert text in html.unescape((tmp_path / "page.html").read_text())
    assert notes.write() > 0
    assert text in optuna_dashboard.get_note(as_trial(study.inner, study.trial(pick.trial)))


def test_a_knee_that_moves_and_a_trial_that_was_asked_for(run: Nas, study: Study) -> None:
    run("pick")
    (pick,) = read_picks(study.inner)
    record = study.records()[pick.trial]
    run("pick", "--trial", 0)
    number = measure(study, record, 1e-3, 140_000.0)  # cheapest but for one
    marks = Marks.of(study, Standings.of(study))
    assert marks.knee == number
    assert {trial: item.by.number for trial, item in marks.overtaken.items()} == {pick.trial: number}
    assert marks.since(pick).startswith(f"then the knee of the front; now #{number} is")


def test_limits_of_a_pick_of_an_earlier_version_are_its_own_values(study: Study) -> None:
    record = study.records()[1]
    exact = 1.001 * record.metrics[CACHE]
    for bounds, value in (([exact], exact), ([], record.metrics[CACHE])):
        (limit,) = stored_limits([f"{CACHE} <= 307.2 KiB"], bounds, record) or []
        assert (limit.name, limit.comparison, limit.value) == (CACHE, "<=", value)
    assert stored_limits(["no_metric <= 1"], [1.0], record) is None


def test_a_paused_trial_is_picked_with_a_warning(run: Nas, study: Study) -> None:
    number = pause(study)
    result = run("pick", "--trial", number)
    assert result.exit_code == 0
    assert f"warning: #{number} is paused: its loss is that after" in result.stderr
    assert "held-out loss 5.5000" in result.stderr
    assert (
        Architecture.from_dict(study.records()[0].architecture or {}).hash in result.stdout or result.stdout
    )
    assert read_picks(study.inner)[0].trial == number


def test_what_has_no_result_or_no_architecture_is_refused(run: Nas, study: Study) -> None:
    known = study.records()[0]
    architecture = {ARCHITECTURE: known.architecture, LINE: known.line, HASH: known.hash}
    failed = add(study, optuna.trial.TrialState.FAIL, **architecture, **{REASON: "loss is not finite"})
    waiting = add(study, optuna.trial.TrialState.WAITING)
    for number, rule in ((failed, "failed: loss is not finite"), (waiting, "has no architecture yet")):
        result = run("pick", "--trial", number)
        assert result.exit_code == 2
        assert rule in str(result.exception)
    assert "nas front hybrid" in str(run("pick", "--trial", failed).exception)
    assert read_picks(study.inner) == []


def test_a_repeat_stands_for_its_architecture(run: Nas, study: Study) -> None:
    known = study.records()[1]
    architecture = {ARCHITECTURE: known.architecture, LINE: known.line, HASH: known.hash}
    number = add(study, optuna.trial.TrialState.COMPLETE, **architecture, **{REPEAT_OF: 1})
    assert f"asked for as #{number}" in run("pick", "--trial", number).stderr
    assert [pick.trial for pick in read_picks(study.inner)] == [1]


def test_a_trial_leaves_nothing_to_choose(run: Nas, study: Study) -> None:
    result = run("pick", "--trial", 1, "--best", "kl", "--limit", "params<=1M")
    assert result.exit_code == 2
    for words in ("--best", "--limit", "can't be given with --trial 1", "omit it"):
        assert words in str(result.exception)
    with pytest.raises(AssertionError):
        PickRequest(trial=1, best="kl")


def test_notes_and_pages_show_why_it_was_picked(run: Nas, study: Study, tmp_path: Path) -> None:
    run("pick", "--limit", f"{CACHE}<=60%", "--best", "kl", "-o", tmp_path / "mine.yaml")
    (pick,) = read_picks(study.inner)
    page = tmp_path / "page.html"
    assert run("report", "-o", page).exit_code == 0
    record = study.records()[pick.trial]
    texts = {
        "report": html.unescape(page.read_text()),
        "note": study_note(study),
        "trial": trial_note(study, record, pick=pick),
    }
    for name, text in texts.items():
        for words in (pick.reason, CACHE, "307.2 KiB", "mine.yaml", "nas apply"):
            assert words in text, (name, words)
    assert "<h3>Picked</h3>" in texts["report"]
    assert "<details>" in texts["report"]
    other = next(item for item in study.records() if item.number != pick.trial)
    assert pick.reason not in trial_note(study, other)
    # written into the study when it is annotated, and again when something else is picked
    notes = Notes(study)
    notes.write()
    pick_trial(study, other.number)
    assert notes.write() == 2  # the study's, and the trial's
    assert "#0 original measured, on the front, picked" in trial_note(
        study, other, on_front=True, pick=read_picks(study.inner)[0]
    )
