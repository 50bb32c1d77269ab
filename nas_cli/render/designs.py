"""The papers' own designs against what a study found, as a table: `nas front --baselines`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nas_cli.render.screen import console

if TYPE_CHECKING:
    from studies.analysis.versus_baselines import Duel, VersusBaselines

_STYLES = {"beaten": "green", "not beaten": "red"}


def print_designs(found: VersusBaselines) -> None:
    """A row a design: its result, who is ahead of it at no more cost, by how much, how much cheaper."""
    if not found.duels:
        console.print("no design of the papers is trained here")
        return
    name = found.objective.name
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("design", no_wrap=True)
    table.add_column(name, justify="right", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=1)
    for head in ("of", name, "better by", *found.costs):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for duel in found.duels:
        table.add_row(*_cells(duel, found))
    console.print(table)
    costs = ", ".join(found.costs)
    told = f"found: ahead most surely, of so many with no more {costs}; their changes are shown"
    if found.standings.noise is None:
        told += "; nothing was trained twice: `nas refine` gives intervals"
    else:
        told += "; ±: 90 % interval that holds for all of those together"
    console.print(f"[dim]{told}[/]", soft_wrap=True)


def _cells(duel: Duel, found: VersusBaselines) -> list[Text]:
    show = found.objective.metric.format
    outcome = Text(duel.outcome, style=_STYLES.get(duel.outcome, "yellow"))
    cells = [Text(duel.baseline.name, style="magenta"), Text(show(found.value(duel.baseline)))]
    if duel.rival is None or duel.ahead is None:
        return [*cells, *[Text()] * (4 + len(found.costs)), outcome]
    half = "" if duel.half is None else f" ±{show(duel.half)}"
    changes = [duel.rival.metrics[name] / duel.baseline.metrics[name] - 1 for name in found.costs]
    return [
        *cells,
        Text(f"{duel.rival.name} {duel.rival.line}"),
        Text(str(duel.rivals)),
        Text(show(found.value(duel.rival))),
        Text(f"{show(duel.ahead)}{half}"),
        *[Text(f"{change:+.0%}") for change in changes],
        outcome,
    ]
