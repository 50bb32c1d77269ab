"""The table of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nas_cli.render.fitted import GAP, shorten
from nas_cli.render.headers import header
from nas_cli.render.screen import console
from studies.study.trial_names import Names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search_spaces import SearchSpace
    from studies.analysis.standings import Standings
    from studies.study.trial_record import TrialRecord

MOST_TIES = 3  # tied trials named per row
SHORTEST_NAME = 12  # columns that a trial's name gets at least, if it needs so many
SHORTEST_DESIGN = 12  # likewise an architecture; with less room there is no column for it
NAME, DESIGN = 0, 1  # indices of the table's columns


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
        one_line: shorten what is too long in its middle, instead of folding it.
    """
    if standings is not None and standings.noise is None:
        standings = None
    objectives, names = space.objectives, Names(space)
    heads, folded = ["trial", "architecture", *(header(item.name) for item in objectives)], [NAME, DESIGN]
    if standings is not None:
        heads += ["runs", "P(front)", "tied with"]
        folded.append(len(heads) - 1)
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
        style = "" if standings is None else _add_standing(cells, record, standings)
        name = Text(names.name(record), style="magenta" if record.baseline else "")
        rows.append(([name, Text(names.design(record)), *cells], style))

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    widths = _widths(heads, [cells for cells, _ in rows], folded)
    for index, width in widths.items():
        if index in folded:
            overflow = "ellipsis" if one_line else "fold"
            table.add_column(heads[index], width=width, no_wrap=one_line, overflow=overflow)  # type: ignore[arg-type]
        else:
            table.add_column(heads[index], justify="right", no_wrap=True)
    for cells, style in rows:
        if one_line:
            cells = [
                shorten(cell, widths[index]) if index in widths and index in folded else cell
                for index, cell in enumerate(cells)
            ]
        table.add_row(*(cells[index] for index in widths), style=style)
    if DESIGN not in widths:
        table.caption, table.caption_justify = "a wider terminal also shows the architectures", "left"
    return table


def _widths(heads: Sequence[str], rows: Sequence[Sequence[Text]], folded: Sequence[int]) -> dict[int, int]:
    """Return the widths of the columns that there is room for, by index.

    Folded columns share what the others leave: each gets its widest word, then the ties the rest of what they
    need, then the names, then the architectures.
    """
    texts = [[head, *(row[index].plain for row in rows)] for index, head in enumerate(heads)]
    needed = [max(_longest(text.splitlines()) for text in column) for column in texts]
    least = {index: max(_longest(text.split()) for text in texts[index]) for index in folded}
    least[NAME] = min(needed[NAME], SHORTEST_NAME)
    fixed = sum(width for index, width in enumerate(needed) if index not in folded)
    rest = console.width - GAP * (len(heads) - 1) - fixed - sum(least.values())
    if rest < 0:
        short = least.pop(DESIGN)
        if short + rest >= SHORTEST_DESIGN:
            least[DESIGN], rest = short + rest, 0
        else:
            rest += short + GAP
    widths = {}
    for index in sorted(least, key=lambda item: (item == DESIGN, item == NAME)):
        widths[index] = min(needed[index], least[index] + max(rest, 0))
        rest -= widths[index] - least[index]
    return {
        index: widths.get(index, width)
        for index, width in enumerate(needed)
        if index in widths or index not in folded
    }


def _longest(words: Sequence[str]) -> int:
    return max(map(len, words), default=0)


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
