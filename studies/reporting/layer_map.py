"""Layers of a front's architectures as a map: a row per trial, a column per layer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from studies.analysis.standings import Standings
from studies.reporting.figure import Figure, HeatMap
from studies.study import Study
from studies.study.trial_record import TrialRecord
from surgery.architecture import Architecture
from surgery.architecture.strip import ABSENT, REPLACED, RESIZED, strip_key, strip_rows
from surgery.config.backbone import FFN_PROJECTIONS, PROJECTIONS
from surgery.mixers import MIXERS

MOST_ROWS = 24
_CAPTION = 76  # letters on a line of the key
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
        caption=_caption(built, cells),
    )
    title = f"{study.name}: layers of the front"
    return Figure(title, [heat], width=max(5.2, 2 + 0.6 * depth), height=1.6 + 0.22 * len(records))


def _caption(built: Sequence[Architecture], cells: Sequence[Sequence[_Cell]]) -> list[str]:
    """Return what the letters of the mixers and of the projections mean."""
    key = strip_key(*built)
    lines = [", ".join(f"{sign} {meaning}" for sign, meaning in key if sign in MIXERS)]
    operators = [name for sign, name in key if sign == REPLACED]
    if any(cell.replaced and cell.has_ffn for row in cells for cell in row):
        what = " or ".join([*operators, *(["resized"] if any(sign == RESIZED for sign, _ in key) else [])])
        lines.append(f"behind them the projections that are {what}: q k v o, g gate, u up, d down")
    if any(not cell.has_ffn for row in cells for cell in row):
        lines.append("-ffn: without a feed-forward part")
    return [part for line in lines for part in textwrap.wrap(line, _CAPTION)]


def _row(record: TrialRecord, architecture: Architecture) -> str:
    return f"#{record.number} {architecture.loop_mark}".rstrip()


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
