"""Plots of fronts over a pretrained model: KL by its logarithm, and no more names than there is room for."""

from __future__ import annotations

from math import nan
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from nas_cli.render.scatter import scatter
from studies.analysis.marks import Marks
from studies.analysis.standings import Standings
from studies.reporting import front_plot
from studies.reporting.figure import Axis, Figure, Panel
from studies.reporting.front_plot import LEAST_KL, _fenced, front_figure, plot_front
from studies.reporting.graph import graph
from studies.reporting.ticks import binary_ticks, plain_ticks, time_unit
from studies.storage.attributes import ARCHITECTURE, HASH, LINE, RUNGS, STOPPED_AT
from surgery.config.quantities import format_bytes, format_count
from tests.picks import pick_trial
from tests.scored_study import make_study as make_scored
from tests.studies.conftest import SPACE, MakeStudy
from tests.studies.filled import fill


def test_the_front_of_a_pretrained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(front_plot, "draw", lambda figure, path: drawn.append(figure))
    study = make_scored(tmp_path / "runs")
    standings = Standings.of(study)
    plot_front(study, standings, tmp_path / "front.svg")
    (panel,) = drawn[0].panels
    assert isinstance(panel, Panel)
    assert panel.y.log
    assert not panel.x.log
    baselines = next(series for series in panel.series if series.name == "baseline")
    assert list(baselines.labels) == ["#0 original", "#1 lowest W 32 4 75%"]
    assert min(baselines.y) == LEAST_KL  # the original has 0, which has no logarithm
    assert "measured designs" in drawn[0].title

    monkeypatch.setattr(front_plot, "MOST_LABELS", 1)
    plot_front(study, standings, tmp_path / "front.svg")
    (panel,) = drawn[1].panels
    assert isinstance(panel, Panel)
    baselines = next(series for series in panel.series if series.name == "baseline")
    assert (baselines.marker, list(baselines.labels)) == ("square", [])
    front = next(series for series in panel.series if series.name == "on the front")
    assert "#0" in front.labels  # by their numbers then
    assert [series.name for series in panel.series][-1] == "knee"
    pick_trial(study, study.front()[0].number)
    plot_front(study, standings, tmp_path / "front.svg")
    (panel,) = drawn[2].panels
    assert isinstance(panel, Panel)
    assert (panel.series[-1].name, len(panel.series[-1].x)) == ("picked", 1)


def test_the_terminal_has_a_logarithmic_axis(tmp_path: Path) -> None:
    study = make_scored(tmp_path / "runs")
    pick_trial(study, 3)
    marks = Marks.of(study, Standings.of(study))
    records, front = study.records(), study.front()
    text = scatter(records, front, study.space.objectives, width=60, height=12, marks=marks).plain
    assert text.count("★") == text.count("◇") == 2  # in the plot and in its legend
    assert "0.0001" in text
    assert "kl (min)" in text


def test_outliers_and_paused_runs_do_not_squeeze_the_front() -> None:
    values = np.array([4.3, 4.31, 4.33, 4.35, 4.36, 4.4, 9.0])
    front = values[:2]
    axis = _fenced(Axis("loss"), values, front, np.array([5.2, nan]), "min")
    assert axis.low is None
    assert axis.high is not None
    assert 4.4 < axis.high < 4.5
    assert _fenced(Axis("loss"), values[:-1], front, np.array([]), "min") == Axis("loss")
    kept = _fenced(Axis("loss"), values, values[-1:], np.array([]), "min")
    assert kept.high is None
    accuracy = _fenced(Axis("recall"), -values, -front, np.array([]), "max")
    assert accuracy.high is None
    assert accuracy.low == -axis.high


def test_paused_runs_beyond_the_axis_say_so(make_study: MakeStudy) -> None:
    study = fill(make_study(sampler="random"), 12, lambda params, rng: 4.0 + float(rng.normal(0, 0.01)))
    record = study.records()[3]
    for loss in (4.0, 9.0):
        attributes = {
            ARCHITECTURE: record.architecture, LINE: record.line, HASH: "0", STOPPED_AT: 1, RUNGS: [loss],
        }  # fmt: skip
        state = TrialState.RUNNING
        study.inner.add_trial(create_trial(state=state, user_attrs=attributes))
    number = study.records()[-1].number
    panel = front_figure(study, Standings.of(study)).panels[0]
    assert isinstance(panel, Panel)
    inside, beyond = (
        next(series for series in panel.series if series.name == name)
        for name in ("paused, loss so far", "paused, beyond the axis")
    )
    assert (inside.marker, list(inside.labels)) == ("ring", [""])
    assert (beyond.marker, list(beyond.labels)) == ("open up", [f"#{number} paused: 9.0000"])
    assert list(beyond.y) == [panel.y.high]
    drawn = graph(Figure("front", [panel]))
    (trace,) = [item for item in drawn.data if item.name == "paused, beyond the axis"]
    assert trace.y[0] <= drawn.layout.yaxis.range[1], "else it is not drawn"


def test_ticks_have_no_superfluous_zeros_and_times_fit() -> None:
    short = plain_ticks(format_count)
    assert [short(value) for value in (400_000, 412_500, 500_000_000, 1_000_000, 100)] == [
        "400k", "412.5k", "500M", "1M", "100",
    ]  # fmt: skip
    assert plain_ticks(format_bytes)(8 * 2**20) == "8 MiB"
    assert binary_ticks(16e3, 800e3, log=True) == [2**14, 2**16, 2**18]
    assert binary_ticks(100e3, 500e3, log=False) == [2**17, 2 * 2**17, 3 * 2**17]
    assert binary_ticks(7, 7, log=False) == [7]
    assert [time_unit(seconds)[:2] for seconds in (90, 390, 40_000, 900_000)] == [
        ("seconds", 1), ("minutes", 60), ("hours", 3600), ("days", 86400),
    ]  # fmt: skip


def test_a_single_objective_is_drawn_over_the_trials(make_study: MakeStudy) -> None:
    text = SPACE.replace("{val_loss: min, params: min, decode_flops@64: min}", "{val_loss: min}")
    study = fill(make_study(text=text, sampler="random"), 8, lambda params, rng: float(rng.normal(4, 0.1)))
    (panel,) = front_figure(study, Standings.of(study)).panels
    assert isinstance(panel, Panel)
    assert panel.x.label == "trial"
    front = next(series for series in panel.series if series.name == "on the front")
    best = study.front()[0]
    assert (list(front.x), list(front.y)) == ([best.number], list(best.values or ()))
