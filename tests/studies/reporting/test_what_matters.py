"""Shares, sentences and pictures on what matters and on leads over baselines, in both kinds of study."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.analysis.standings import Standings
from studies.reporting.baseline_plot import baselines_figure
from studies.reporting.figure import HeatMap, Panel
from studies.reporting.graph import graph
from studies.reporting.importance_map import ImportanceMap
from studies.reporting.key_of_letters import key_of_names
from studies.reporting.part_map import PartMap
from studies.reporting.picture import picture
from studies.reporting.study_note import study_note
from studies.study import Study
from tests.scored_study import CACHE, TRIALS, W8, W32, kl_of, make_study
from tests.studies.conftest import MakeStudy
from tests.studies.filled import fill


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("scored") / "runs")


def test_shares_of_parts_are_those_of_their_scores_and_costs(scored: Study) -> None:
    parts = PartMap.of(scored)
    assert parts is not None
    kl, cache = parts.of_objectives(["kl", CACHE])
    mixers = {layer: sum(kl_of(layer, label) for label in (W32, W8, "none")) / 3 for layer in (1, 2, 3)}
    ffns = {layer: sum(kl_of(layer, label) for label in ("dim=64", "none")) / 2 for layer in (1, 2, 3)}
    total = sum(mixers.values()) + sum(ffns.values())
    for layer in (1, 2, 3):
        assert kl[f"layer.{layer}.mixer"] == pytest.approx(mixers[layer] / total)
        assert kl[f"layer.{layer}.ffn"] == pytest.approx(ffns[layer] / total)
        assert cache[f"layer.{layer}.mixer"] == pytest.approx(1 / 3)
        assert cache[f"layer.{layer}.ffn"] == 0
    (heat,) = parts.figure().panels
    assert isinstance(heat, HeatMap)
    assert heat.texts[0] == ["", "", "", ""]  # a layer that is kept
    assert heat.texts[3][2] == "33%"


def test_there_is_no_map_of_parts_without_scores(tmp_path: Path, make_study: MakeStudy) -> None:
    from tests.scored_study import make_study as make_scored

    assert PartMap.of(make_scored(tmp_path / "early", scored=False)) is None
    assert PartMap.of(make_study()) is None


def test_the_note_of_a_pretrained_study_says_what_matters(scored: Study) -> None:
    note = study_note(scored)
    assert note.index("### Front") < note.index("### Baselines") < note.index("### What matters")
    assert "| kl | layer.3.ffn" in note
    assert "| mixer | W 32 4 | .0040 | .0020 (layer 1) | .0060 (layer 3) |" in note
    assert f"rank correlation of 1.00 (Spearman, {len(TRIALS)} designs" in note


def test_costs_are_known_before_the_loss(make_study: MakeStudy) -> None:
    few = fill(make_study(sampler="random"), 6, lambda params, rng: 4.0 + float(rng.normal(0, 0.1)))
    shares = ImportanceMap.of(few)
    assert shares is not None
    loss, params = shares.of_objectives(["val_loss", "params"])
    assert loss == {}
    assert sum(params.values()) == pytest.approx(1)
    note = study_note(few)
    assert "For val_loss and the front 10 trained architectures" in note
    assert "| params | " in note
    (heat,) = shares.figure().panels
    assert isinstance(heat, HeatMap)
    assert list(heat.columns) == ["params", "decode_flops@64"]


def test_what_matters_for_the_loss(make_study: MakeStudy) -> None:
    study = fill(
        make_study(sampler="random"), 40, lambda params, rng: 3.0 + params["loop.count"] + rng.normal(0, 0.01)
    )
    note = study_note(study)
    assert "| val_loss | loop.count" in note
    assert "not corrected for their number): loop.count" in note


def test_baselines_before_anything_ran_twice(scored: Study) -> None:
    note = study_note(scored)
    assert "Behind #1 lowest W 32 4 75%; not beaten: #0 original. Ahead and behind by one run each: " in note
    assert "`nas refine hybrid` runs the closest ones again" in note
    assert "| **not beaten** |" in note  # of the original, whose KL is 0
    assert "| **behind by one run each: can't tell yet** |" in note


def test_leads_over_the_baselines_as_a_picture(make_study: MakeStudy) -> None:
    study = fill(make_study(sampler="random"), 12, lambda params, rng: 3.0 + float(rng.normal(0, 0.1)))
    records = study.records()
    figure = baselines_figure(study, records, Standings.of(study))
    assert figure is not None
    (panel,) = figure.panels
    assert isinstance(panel, Panel)
    names = [record.name for record in records if record.baseline]
    assert set(panel.y.names) <= set(names)
    assert {series.name for series in panel.series} <= {
        "", "ahead, not told apart yet", "behind, not told apart yet",
    }  # fmt: skip
    axes = picture(figure).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(panel.y.names)
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first baseline is on top"
    assert list(graph(figure).layout.yaxis.ticktext) == list(panel.y.names)
    assert "nas refine study" in study_note(study)


def test_names_are_explained_where_they_are_used(scored: Study) -> None:
    assert key_of_names(["FFWF", "FWWF"]) == ""
    assert "8 blocks" in key_of_names(["WWFW·hdpl[qv,gd]@2-3 b8 r8 mean:0.00012"])
    assert "three layers have this replacement" in key_of_names(["FWWF ffn[64]×3"])
    assert "other widths" in key_of_names(["FFFF·ffn[3:768 5:none]"])
    assert "other widths" not in key_of_names(["FFFF ffn[none]×3"])
    assert "`W` sliding-window attention" in study_note(scored)
