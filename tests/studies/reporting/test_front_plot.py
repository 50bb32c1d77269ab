"""Plots of fronts over a pretrained model: KL by its logarithm, and no more names than there is room for."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_cli.render.scatter import scatter
from studies.analysis.standings import Standings
from studies.reporting import front_plot
from studies.reporting.figure import Figure, Panel
from studies.reporting.front_plot import LEAST_KL, plot_front
from tests.scored_study import make_study


def test_the_front_of_a_pretrained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(front_plot, "draw", lambda figure, path: drawn.append(figure))
    study = make_study(tmp_path / "runs")
    standings = Standings.of(study)
    plot_front(study, standings, tmp_path / "front.svg")
    (panel,) = drawn[0].panels
    assert isinstance(panel, Panel)
    assert panel.y.log
    assert not panel.x.log
    baselines = panel.series[-1]
    assert list(baselines.labels) == ["original", "lowest W 32 4 75%"]
    assert min(baselines.y) == LEAST_KL  # the original has 0, which has no logarithm
    assert "measured designs" in drawn[0].title

    monkeypatch.setattr(front_plot, "MOST_LABELS", 1)
    plot_front(study, standings, tmp_path / "front.svg")
    (panel,) = drawn[1].panels
    assert isinstance(panel, Panel)
    assert (panel.series[-1].marker, list(panel.series[-1].labels)) == ("square", [])


def test_the_terminal_has_a_logarithmic_axis(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs")
    text = scatter(study.records(), study.front(), study.space.objectives, width=60, height=12).plain
    assert "0.0001" in text
    assert "kl (min)" in text
