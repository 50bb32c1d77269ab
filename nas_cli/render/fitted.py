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
        fold: break texts between words over several lines, where the column has room for the longest word.
    """

    head: str
    rank: int = 0
    least: int | None = None
    justify: Literal["left", "right"] = "right"
    fold: bool = False


def fitted_table(
    columns: Sequence[Column],
    rows: Sequence[Cells],
    title: str | None = None,
    styles: Sequence[str] | None = None,
    elsewhere: str = "--json",
) -> Table:
    """Return a table of at most the terminal's width.

    Where there is no room, in this order: headers that are wider than what is below them are broken at
    underscores and the gaps narrowed, texts are
    folded or shortened, columns are left out. Its caption names what is left out, and the width that has room
    for it.

    Args:
        columns: from left to right.
        rows: cells in the order of the columns; texts with markup as strings.
        title: above the table.
        styles: of the rows; None: all plain.
        elsewhere: command or option that shows what is left out.
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
        folds = column.fold and _longest_word(cells, index) <= widths[index]
        table.add_column(
            _header(column, cells, index, narrow=narrow), justify=column.justify, width=widths[index],
            no_wrap=not folds, overflow="fold" if folds else "ellipsis",
        )  # fmt: skip
        if not folds:
            for row in cells:
                row[index] = shorten(row[index], widths[index])
    for number, row in enumerate(cells):
        table.add_row(*(row[index] for index in shown), style=styles[number] if styles else None)
    if hidden := [columns[index].head for index in range(len(columns)) if index not in shown]:
        wide = _total(columns, cells, range(len(columns)), narrow=True, shortest=True)
        table.caption = (
            f"no room for {', '.join(filter(None, hidden))}: {wide} columns have it, and {elsewhere}"
        )
    return table


def shorten(text: Text, width: int) -> Text:
    """Return a text of one line with its middle replaced by `…`, if it is longer than `width`."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    head = width - 1 - tail
    return Text.assemble(text[:head], "…", text[len(text) - tail :])


def _longest_word(cells: Sequence[Sequence[Text]], index: int) -> int:
    return max((len(word) for row in cells for word in row[index].plain.split(" ")), default=0)


def _header(column: Column, cells: Sequence[Sequence[Text]], index: int, *, narrow: bool) -> str:
    """Return the header of a column, broken where that makes the column narrower."""
    whole = header(column.head)
    widest = max((len(row[index]) for row in cells), default=0)
    return header(column.head, narrow=True) if narrow and _width(whole) > widest else whole


def _width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def _need(column: Column, cells: Sequence[Sequence[Text]], index: int, *, narrow: bool) -> tuple[int, int]:
    """Return (the least, the most) columns of the terminal that a column can use."""
    head = _width(_header(column, cells, index, narrow=narrow))
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
