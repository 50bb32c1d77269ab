"""The table of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search_spaces import Objective
    from studies.analysis.standings import Standings
    from studies.study.trial_record import TrialRecord

MOST_TIES = 3  # tied trials named per row


def trial_table(
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    *,
    title: str | None = None,
    standings: Standings | None = None,
) -> Table:
    """Return a table with one row per trial: name, architecture, objectives; column bests are highlighted.

    With standings that include seed noise, rows also show intervals, number of runs, the probability of being
    on the front, and ties; trials whose mean is not on the front are dimmed.
    """
    if standings is not None and standings.noise is None:
        standings = None
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", no_wrap=True)
    table.add_column("architecture", overflow="fold", ratio=1)
    for objective in objectives:
        table.add_column(objective.name, justify="right", no_wrap=True)
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
    for record in records:
        cells = [
            Text(objective.metric.format(value), style="bold green" if value == best[column] else "")
            for column, (objective, value) in enumerate(zip(objectives, record.values or (), strict=True))
        ]
        name = Text(record.name, style="magenta" if record.baseline else "")
        style = ""
        if standings is not None:
            style = _add_standing(cells, record, standings)
        table.add_row(name, Text(record.line), *cells, style=style)
    return table


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
