"""Graphs, maps and small pictures that a study stores for Optuna Dashboard."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from studies.analysis.standings import Standings
from studies.reporting.curve_plot import curves_figure, thinned
from studies.reporting.dashboard_graphs import graphs
from studies.reporting.figure import HeatMap, Panel
from studies.reporting.importance_map import ImportanceMap
from studies.reporting.layer_map import layers_figure
from studies.reporting.trial_svg import curve_svg, layers_svg
from studies.study import Study
from surgery.architecture import Architecture
from tests.scored_study import make_study as make_scored
from tests.studies.conftest import MakeStudy
from tests.studies.filled import fill

CURVE = [{"step": step, "tokens": 100 * step, "loss": 6.0 - step / 50} for step in range(1, 101)]


@pytest.fixture
def filled(make_study: MakeStudy) -> Study:
    return fill(make_study(sampler="random"), 12, lambda params, rng: 4.0 + float(rng.normal(0, 0.1)))


def write_curve(study: Study, number: int) -> None:
    import json

    folder = study.trial_folder(number)
    lines = [*CURVE, {"step": 100, "tokens": 10_000, "val_loss": 4.1}]
    (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_a_study_has_a_graph_of_everything_it_knows(filled: Study) -> None:
    write_curve(filled, 3)
    names = [name.split("-", 2)[2] for name, _ in graphs(filled)]
    assert names == [
        "front-0", "front-1", "front-2", "layers", "curves", "hypervolume", "baselines", "importances",
    ]  # fmt: skip
    for _, graph in graphs(filled):
        assert graph.layout.title.text.startswith(("study", "the same front"))
        assert len(graph.to_json()) < 60_000


def test_a_study_over_a_model_has_the_map_of_its_scores(tmp_path: Path) -> None:
    names = [name.split("-", 2)[2] for name, _ in graphs(make_scored(tmp_path / "runs"))]
    assert names == ["front", "layers", "hypervolume", "baselines", "importances", "scores-0", "scores-1"]
    early = make_scored(tmp_path / "early", scored=False)
    assert [name.split("-", 2)[2] for name, _ in graphs(early)] == [
        "front",
        "layers",
        "hypervolume",
        "baselines",
    ]


def test_a_study_without_results_has_no_graphs(make_study: MakeStudy) -> None:
    assert list(graphs(make_study())) == []


def test_importances_are_ours(filled: Study) -> None:
    shares = ImportanceMap.of(filled)
    assert shares is not None
    loss, params, flops = shares.of_objectives(["val_loss", "params", "decode_flops@64"])
    assert loss.keys() == params.keys() == flops.keys()
    assert params["hdpl.kl_weight"] == flops["hdpl.kl_weight"] == 0
    assert all(sum(column.values()) == pytest.approx(1) for column in (loss, params, flops))
    (heat,) = shares.figure().panels
    assert isinstance(heat, HeatMap)
    row = list(heat.rows).index("hdpl.kl_weight")
    column = list(heat.columns).index("params")
    assert math.isnan(heat.values[row][column])
    assert "can't change it" in heat.hover[row][column]


def test_layers_of_the_front(filled: Study) -> None:
    figure = layers_figure(filled, Standings.of(filled))
    assert figure is not None
    (heat,) = figure.panels
    assert isinstance(heat, HeatMap)
    front = filled.front()
    assert "F full attention" in heat.caption[0]
    assert "hdpl: q k v o, g gate, u up, d down" in heat.caption[1]
    assert [row.split()[0] for row in heat.rows] == [f"#{record.number}" for record in front]
    for record, texts, values in zip(front, heat.texts, heat.values, strict=True):
        layers = record.build().layers
        for layer, text, value in zip(layers, texts, values, strict=True):
            replaced = [name for name, item in layer.projections.items() if item.name != "dense"]
            assert text[0] == layer.mixer
            assert (math.isnan(value) and not replaced) or value == len(replaced) / 7


def test_curves_show_what_was_trained(filled: Study) -> None:
    standings = Standings.of(filled)
    assert curves_figure(filled, standings) is None
    for record in filled.records():
        write_curve(filled, record.number)
    figure = curves_figure(filled, standings)
    assert figure is not None
    (panel,) = figure.panels
    assert isinstance(panel, Panel)
    names = [series.name for series in panel.series if series.name]
    assert names.count("on the front") == len(standings.front)
    assert names[-1] == "on the front"  # on top
    assert len(names) == 12
    assert set(names) == {"baseline", "trained", "on the front"}


def test_a_thinned_curve_keeps_the_mean_and_the_end() -> None:
    x, y = thinned(CURVE, most=10)
    assert (len(x), x[-1]) == (10, 10_000)
    assert np.mean(y) == pytest.approx(np.mean([point["loss"] for point in CURVE]))
    assert thinned(CURVE[:3], most=10)[0] == [100, 200, 300]


def test_small_pictures_are_svg() -> None:
    architecture = Architecture.from_dict({
        "backbone": {"vocab_size": 64, "dim": 16, "num_layers": 3, "num_heads": 2, "ffn_dim": 32},
        "layout": "FWN",
        "projections": [
            {"match": ["q"], "layers": "0", "operator": "hdpl", "blocks": 2, "rank": 4, "kl": "mean"},
        ],
        "loop": {"count": 2},
    })  # fmt: skip
    text = layers_svg(architecture)
    ElementTree.fromstring(text)
    assert text.count('fill="#0072b2"') == 1  # q of the first layer
    assert "run 2 times" in text
    for words in ("F full attention", "N no token mixing", "pale: dense", "blue: hdpl"):
        assert words in text
    curve = curve_svg([*CURVE, {"tokens": 10_000, "val_loss": 4.1}], "#1 <a&b>")
    assert curve is not None
    ElementTree.fromstring(curve)
    assert curve.count("<circle") == 1
    assert curve_svg([], "#1") is None
