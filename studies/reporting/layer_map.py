"""Layers of a front's architectures as a map: a row per trial, a column per layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

from studies.analysis.standings import Standings
from studies.reporting.figure import Figure, HeatMap
from studies.study import Study
from studies.study.trial_record import TrialRecord
from surgery.architecture import Architecture
from surgery.architecture.strip import ABSENT, REPLACED, RESIZED, strip_rows
from surgery.config.backbone import FFN_PROJECTIONS, PROJECTIONS

MOST_ROWS = 24
_SHOWN = {"gate": "g", "up": "u", "down": "d"}


def layers_figure(study: Study, standings: Standings) -> Figure | None:
    """Return the layers of the architectures on the front; None while it is empty.

    A cell has the letter of the mixer, and the projections that another operator replaces; the more of them,
    the darker it is.
    """
    records = [row.record for row in standings.front][:MOST_ROWS]
    if not records:
        return None
    built = [record.build() for record in records]
    depth = max(architecture.backbone.num_layers for architecture in built)
    cells = [_cells(architecture) for architecture in built]
    heat = HeatMap(
        "",
        rows=[_row(record, architecture) for record, architecture in zip(records, built, strict=True)],
        columns=[str(layer) for layer in range(depth)],
        values=[[(len(cell.replaced) or nan) / len(PROJECTIONS) for cell in row] for row in cells],
        texts=[[cell.text for cell in row] for row in cells],
        hover=[
            [f"{standings.names.name(record)}, layer {layer}: {cell.hover}" for layer, cell in enumerate(row)]
            for record, row in zip(records, cells, strict=True)
        ],
        label="",
        low=0.1,
        high=5.0,  # so that letters are readable on all of them
    )
    title = f"{study.name}: layers of the front"
    return Figure(title, [heat], width=2 + 0.6 * depth, height=1.2 + 0.22 * len(records))


def _row(record: TrialRecord, architecture: Architecture) -> str:
    loops = f" ×{architecture.loop_count}" if architecture.loop_count > 1 else ""
    return f"#{record.number}{loops}"


@dataclass(frozen=True)
class _Cell:
    """A layer: the letter of its mixer, and the projections that are replaced, resized, or absent with it."""

    letter: str
    replaced: list[str]
    has_ffn: bool

    @property
    def text(self) -> str:
        if not self.has_ffn:
            names = "".join(name for name in self.replaced if name not in FFN_PROJECTIONS)
            return f"{self.letter} {names}-ffn"
        return f"{self.letter} {''.join(_SHOWN.get(name, name) for name in self.replaced)}".strip()

    @property
    def hover(self) -> str:
        return f"{self.letter}<br>replaced: {' '.join(self.replaced) or 'nothing'}" + (
            "" if self.has_ffn else "<br>no feed-forward part"
        )


def _cells(architecture: Architecture) -> list[_Cell]:
    mixers, *projections = strip_rows(architecture)
    cells = []
    for layer, (letter, _) in enumerate(mixers.cells):
        marks = {row.label: row.cells[layer][0] for row in projections}
        has_ffn = any(marks[name] != ABSENT for name in FFN_PROJECTIONS)
        replaced = [
            name
            for name, mark in marks.items()
            if mark in (REPLACED, RESIZED) or (not has_ffn and name in FFN_PROJECTIONS)
        ]
        cells.append(_Cell(letter, replaced, has_ffn))
    return cells
