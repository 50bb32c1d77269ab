"""Tables that fit the terminal: names shortened in the middle, columns left out by rank, which is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from nas_cli.render.headers import header
from nas_cli.render.screen import console

GAP, NARROW_GAP = 2, 1  # columns of the terminal between two columns of a table


Cells = Sequence["Text | str"]


@dataclass(frozen=True)
class Column:
    """A column of a fitted table.

    Attributes:
        head: its header.
        rank: columns of the highest rank are left out first; those of rank 0 never.
        least: width that its texts may be shortened to, in the middle; None: they are never shortened.
    """

    head: str
    rank: int = 0
    least: int | None = None
    justify: Literal["left", "right"] = "right"


def fitted_table(columns: Sequence[Column], rows: Sequence[Cells], title: str | None = None) -> Table:
    """Return a table of at most the terminal's width.

    Where there is no room, in this order: headers are broken at underscores and the gaps narrowed, texts are
    shortened, columns are left out. Its caption names what is left out, and the width that has room for it.

    Args:
        columns: from left to right.
        rows: cells in the order of the columns; texts with markup as strings.
        title: above the table.
    """
    cells = [[cell if isinstance(cell, Text) else Text.from_markup(cell) for cell in row] for row in rows]
    shown = list(range(len(columns)))
    while True:
        narrow = _total(columns, cells, shown, narrow=False) > console.width
        spare = console.width - _total(columns, cells, shown, narrow=narrow, shortest=True)
        droppable = [index for index in shown if columns[index].rank]
        if spare >= 0 or not droppable:
            break
        shown.remove(max(droppable, key=lambda index: (columns[index].rank, index)))
    widths = _widths(columns, cells, shown, narrow=narrow, spare=max(0, spare))
    gap = NARROW_GAP if narrow else GAP
    table = Table(
        title=title, title_justify="left", caption_justify="left", box=None, pad_edge=False,
        header_style="bold", padding=(0, gap, 0, 0), collapse_padding=True,
    )  # fmt: skip
    for index in shown:
        column = columns[index]
        table.add_column(
            header(column.head, narrow=narrow), justify=column.justify, width=widths[index], no_wrap=True,
            overflow="ellipsis",
        )  # fmt: skip
    for row in cells:
        table.add_row(*(shorten(row[index], widths[index]) for index in shown))
    if hidden := [columns[index].head for index in range(len(columns)) if index not in shown]:
        wide = _total(columns, cells, range(len(columns)), narrow=True, shortest=True)
        table.caption = f"no room for {', '.join(filter(None, hidden))}: {wide} columns have it, and --json"
    return table


def shorten(text: Text, width: int) -> Text:
    """Return a text of one line with its middle replaced by `…`, if it is longer than `width`."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    head = width - 1 - tail
    return Text.assemble(text[:head], "…", text[len(text) - tail :])


def _need(column: Column, cells: Sequence[Sequence[Text]], index: int, *, narrow: bool) -> tuple[int, int]:
    """Return (the least, the most) columns of the terminal that a column can use."""
    head = max(map(len, header(column.head, narrow=narrow).splitlines()), default=0)
    most = max([head, *(len(row[index]) for row in cells)])
    return (most if column.least is None else min(most, max(head, column.least))), most


def _total(
    columns: Sequence[Column], cells: Sequence[Sequence[Text]], shown: Sequence[int], *, narrow: bool,
    shortest: bool = False,
) -> int:  # fmt: skip
    gaps = (NARROW_GAP if narrow else GAP) * (len(shown) - 1)
    side = 0 if shortest else 1
    return gaps + sum(_need(columns[index], cells, index, narrow=narrow)[side] for index in shown)


def _widths(
    columns: Sequence[Column], cells: Sequence[Sequence[Text]], shown: Sequence[int], *, narrow: bool,
    spare: int,
) -> dict[int, int]:  # fmt: skip
    """Share what there is beyond the least widths: one column after another becomes as wide as it needs."""
    widths = {}
    for index in shown:
        least, most = _need(columns[index], cells, index, narrow=narrow)
        widths[index] = min(most, least + spare)
        spare -= widths[index] - least
    return widths
