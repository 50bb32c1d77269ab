"""Trials as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search_spaces import Objective
    from studies.records import TrialRecord


def trial_table(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], *, title: str | None = None
) -> Table:
    """One row a trial: number, architecture, objectives; the best of each column stands out."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", no_wrap=True)
    table.add_column("architecture", overflow="fold", ratio=1)
    for objective in objectives:
        table.add_column(objective.name, justify="right", no_wrap=True)
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
        table.add_row(name, Text(record.line), *cells)
    return table
