"""The layer strip in colour, optionally next to text about the architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from surgery.architecture import Architecture


def layer_strip(architecture: Architecture) -> Text:
    """Return one column per layer: the mixer's letter, `·` for dense projections, `■` for operators."""
    from surgery.architecture.strip import strip_gap, strip_rows

    gap = strip_gap(architecture)
    text = Text(no_wrap=True)
    for number, row in enumerate(strip_rows(architecture)):
        text.append("\n" if number else "")
        text.append(f"{row.label:<5} ", style="dim")
        for column, (mark, kind) in enumerate(row.cells):
            text.append(gap if column else "")
            text.append(mark, style=_style(kind, mixer=number == 0))
        if number == 0 and architecture.loop_count > 1:
            text.append(f"  {architecture.loop_mark}", style="bold")
    return text


def legend(*architectures: Architecture, marks: bool = True) -> Text:
    """Return what the letters, and with `marks` the marks, in the strips of these architectures mean."""
    from surgery.architecture.strip import strip_key

    key = strip_key(*architectures, marks=marks)
    return Text(", ".join(f"{sign} {meaning}" for sign, meaning in key), style="dim")


def strip_with_facts(architecture: Architecture, facts: Iterable[RenderableType]) -> Table:
    """Return a table with the strip on the left and lines of text on the right."""
    from rich.console import Group

    table = Table.grid(padding=(0, 3))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(layer_strip(architecture), Group(*facts))
    return table


def _style(kind: str, *, mixer: bool) -> str:
    from surgery.mixers import MIXERS
    from surgery.projections import PROJECTION_OPERATORS

    if mixer:
        return f"bold {MIXERS[kind].colour}"
    return PROJECTION_OPERATORS[kind].colour if kind else ""
