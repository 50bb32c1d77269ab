"""The table of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nas_cli.render.headers import header
from nas_cli.render.names import Names
from nas_cli.render.screen import console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from search_spaces import SearchSpace
    from studies.analysis.standings import Standings
    from studies.study.trial_record import TrialRecord

MOST_TIES = 3  # tied trials named per row
SHORTEST_NAME = 12  # columns that a trial's name gets at least
GAP = 2  # between columns


def trial_table(
    records: Sequence[TrialRecord],
    space: SearchSpace,
    *,
    title: str | None = None,
    standings: Standings | None = None,
    one_line: bool = False,
) -> Table:
    """Return a table with one row per trial: name, architecture, objectives; column bests are highlighted.

    With standings that include seed noise, rows also show intervals, number of runs, the probability of being
    on the front, and ties; trials whose mean is not on the front are dimmed.

    Args:
        records: the trials.
        space: that they are of.
        title: above the table.
        standings: of the study.
        one_line: cut what is too long, instead of folding it.
    """
    if standings is not None and standings.noise is None:
        standings = None
    objectives, names = space.objectives, Names(space)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    folded: dict[str, Any] = {"no_wrap": one_line, "overflow": "ellipsis" if one_line else "fold"}
    designs = [names.design(record) for record in records]
    table.add_column("trial", **folded)
    table.add_column("architecture", **folded)
    for objective in objectives:
        table.add_column(header(objective.name), justify="right", no_wrap=True)
    if standings is not None:
        for head in ("runs", "P(front)"):
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("tied with", overflow="fold")
    best = [
        (min if objective.direction == "min" else max)(
            (record.values[column] for record in records if record.values), default=None
        )
        for column, objective in enumerate(objectives)
    ]
    rows = []
    for record in records:
        cells = [
            Text(objective.metric.format(value), style="bold green" if value == best[column] else "")
            for column, (objective, value) in enumerate(zip(objectives, record.values or (), strict=True))
        ]
        name = Text(names.name(record), style="magenta" if record.baseline else "")
        style = ""
        if standings is not None:
            style = _add_standing(cells, record, standings)
        rows.append((name, cells, style))
    if designs:
        values = [cells[: len(objectives)] for _, cells, _ in rows]
        room = console.width - _widest_words(["architecture", *designs]) - _value_widths(table, values)
        longest = max(name.cell_len for name, _, _ in rows)
        table.columns[0].width = min(longest, max(SHORTEST_NAME, room))
    for (name, cells, style), design in zip(rows, designs, strict=True):
        table.add_row(name, Text(design), *cells, style=style)
    return table


def _widest_words(texts: Sequence[str]) -> int:
    """Return the width of the widest word, which is not to be broken."""
    return max(len(word) for text in texts for word in text.split(" "))


def _value_widths(table: Table, rows: Sequence[Sequence[Text]]) -> int:
    """Return the width of a table's columns behind the first two, with the gaps before all but the first."""
    heads = [max(map(len, str(column.header).splitlines())) for column in table.columns[2:]]
    cells = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    cells += [0] * (len(heads) - len(cells))
    widths: list[int] = [max(pair) for pair in zip(heads, cells, strict=True)]
    return sum(widths) + GAP * (len(widths) + 1)


def _add_standing(cells: list[Text], record: TrialRecord, standings: Standings) -> str:
    """Append interval, runs, P(front) and ties to a row's cells; return the row's style."""
    row = standings.standing(record)
    for cell, objective, half in zip(cells, standings.objectives, row.half, strict=True):
        if half is not None:
            cell.append(f" ±{objective.metric.format(half)}", style="dim")
    ties = [f"#{other.record.number}" for other in standings.ties(row)]
    more = f" +{len(ties) - MOST_TIES}" if len(ties) > MOST_TIES else ""
    probability = "–" if row.p_front is None else f"{row.p_front:.2f}"
    cells += [
        Text(str(row.runs)),
        Text(probability, style="yellow" if row.undecided else ""),
        Text(", ".join(ties[:MOST_TIES]) + more),
    ]
    return "" if row.on_front else "dim"
