"""The table of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from nas_cli.render.fitted import Column, fitted_table
from nas_cli.render.marks import signs
from studies.study.trial_names import Names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from search_spaces import SearchSpace
    from studies.analysis.marks import Marks
    from studies.analysis.standings import Standings
    from studies.study.trial_record import TrialRecord

MOST_TIES = 3  # tied trials named per row
SHORTEST_NAME = 12  # columns of the terminal that a trial's name gets at least, if it needs so many
SHORTEST_DESIGN = 20  # likewise an architecture; with less room there is no column for it


def trial_table(
    records: Sequence[TrialRecord],
    space: SearchSpace,
    *,
    title: str | None = None,
    standings: Standings | None = None,
    marks: Marks | None = None,
    one_line: bool = False,
    elsewhere: str = "nas front --json",
) -> Table:
    """Return a table with one row per trial: name, architecture, objectives; column bests are highlighted.

    With standings that include seed noise, rows also show intervals, number of runs, the probability of being
    on the front, and ties; trials whose mean is not on the front are dimmed. Where the terminal is narrow,
    ties are left out first, then architectures, runs, probabilities and the last objectives.

    Args:
        records: the trials.
        space: that they are of.
        title: above the table.
        standings: of the study.
        marks: of the study; none are shown without.
        one_line: shorten what is too long in its middle, instead of folding it.
        elsewhere: command or option that shows what there is no room for.
    """
    if standings is not None and standings.noise is None:
        standings = None
    objectives, names = space.objectives, Names(space)
    marked = marks is not None and any(marks.words(record) for record in records)
    fold = not one_line
    columns = [
        Column("trial", least=SHORTEST_NAME, justify="left", fold=fold),
        *([Column("", justify="left")] if marked else []),
        Column("architecture", rank=4, least=SHORTEST_DESIGN, justify="left", fold=fold),
        *(Column(item.name, rank=1 if index else 0) for index, item in enumerate(objectives)),
    ]
    if standings is not None:
        columns += [Column("runs", rank=3), Column("P(front)", rank=2)]
        columns += [Column("can't tell from", rank=5, justify="left", fold=fold)]
    best = [
        (min if objective.direction == "min" else max)(
            (record.values[column] for record in records if record.values), default=None
        )
        for column, objective in enumerate(objectives)
    ]
    rows, styles = [], []
    for record in records:
        cells = [
            Text(objective.metric.format(value), style="bold green" if value == best[column] else "")
            for column, (objective, value) in enumerate(zip(objectives, record.values or (), strict=True))
        ]
        styles.append("" if standings is None else _add_standing(cells, record, standings))
        name = Text(names.name(record), style="magenta" if record.baseline else "")
        mark = [Text(signs(record, marks))] if marks is not None and marked else []
        rows.append([name, *mark, Text(names.design(record)), *cells])
    return fitted_table(columns, rows, title, styles, elsewhere)


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
