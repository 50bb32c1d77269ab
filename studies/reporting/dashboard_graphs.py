"""Plotly graphs of a study, stored in it, so that Optuna Dashboard shows them also without nas."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from studies.analysis.hypervolume_growth import growth
from studies.analysis.standings import Standings
from studies.reporting.baseline_plot import baselines_figure
from studies.reporting.curve_plot import curves_figure
from studies.reporting.figure import Figure, HeatMap
from studies.reporting.front_plot import front_figure
from studies.reporting.graph import graph
from studies.reporting.hypervolume_plot import growth_figure
from studies.reporting.importance_map import ImportanceMap
from studies.reporting.layer_map import layers_figure
from studies.reporting.part_map import PartMap
from studies.reporting.score_map import ScoreMap, maps_figure, scores_of
from studies.storage.optuna_access import set_study_system_attr, study_system_attrs
from studies.study import Study
from studies.study.trial_record import DONE

# Names by which they are stored begin with their position, which never changes: else an old one would stay.
_ORDER = ("front", "layers", "curves", "hypervolume", "importances", "scores", "baselines")
_DIGEST = "nas:graph"  # system attribute: digest of a graph as it was last stored


def write_graphs(study: Study) -> int:
    """Store the graphs that have changed, and return how many."""
    from optuna_dashboard import save_plotly_graph_object

    known = study_system_attrs(study.inner)
    written = 0
    for name, drawn in graphs(study):
        digest = hashlib.sha256(drawn.to_json().encode()).hexdigest()[:16]
        if known.get(f"{_DIGEST}:{name}") == digest:
            continue
        with study.batched_writes():
            save_plotly_graph_object(study.inner, drawn, graph_object_id=name)
            set_study_system_attr(study.inner, f"{_DIGEST}:{name}", digest)
        written += 1
    return written


def graphs(study: Study) -> Iterator[tuple[str, Any]]:
    """Yield the name and the plotly graph of everything that there is to show yet, in order."""
    for name, figure in figures(study):
        number = _ORDER.index(name.partition("-")[0]) + 1
        yield f"nas-{number}-{name}", graph(figure)


def figures(study: Study) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of everything that there is to show yet, in order."""
    records, objectives = study.records(), study.space.objectives
    if any(record.state == DONE for record in records):
        standings = Standings.of(study, records)
        yield from _panels("front", front_figure(study, standings))
        if (layers := layers_figure(study, standings)) is not None:
            yield "layers", layers
        if (curves := curves_figure(study, standings)) is not None:
            yield "curves", curves
        volume = growth_figure(
            study.name,
            growth(records, objectives, study.space.proxy),
            trained=study.space.replacements is None,
        )
        yield (
            "hypervolume",
            replace(
                volume,
                title=f"{study.name}: share of the box from worst to best that the front dominates",
                panels=volume.panels[:1],
            ),
        )
        if (leads := baselines_figure(study, records, standings)) is not None:
            yield "baselines", leads
    if (shares := ImportanceMap.of(study) or PartMap.of(study)) is not None:
        yield "importances", shares.figure()
    if scores_of(study) is not None:
        yield from _panels("scores", maps_figure(ScoreMap.of(study)))


def _panels(name: str, figure: Figure) -> Iterator[tuple[str, Figure]]:
    """Yield one figure per panel: the dashboard's frames have room for one."""
    for number, panel in enumerate(figure.panels):
        title = figure.title
        if isinstance(panel, HeatMap):
            title, panel = f"{title}: {panel.title}", replace(panel, title="")
        elif number > 0:
            up, across = (axis.label.partition(" (")[0] for axis in (panel.y, panel.x))
            title = f"the same front: {up} over {across}"
        yield (
            f"{name}-{number}" if len(figure.panels) > 1 else name,
            replace(figure, title=title, panels=[panel]),
        )
