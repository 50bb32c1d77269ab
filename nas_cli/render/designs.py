"""Comparison of published baselines with a study's best architectures: `nas front --baselines`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nas_cli.render.screen import console

if TYPE_CHECKING:
    from studies.analysis.versus_baselines import Duel, VersusBaselines

_STYLES = {"beaten": "green", "not beaten": "red"}


def print_designs(comparison: VersusBaselines) -> None:
    """Print one row per baseline: its result, the best rival at no higher cost, the gain and cost changes."""
    if not comparison.duels:
        console.print("no published baseline was trained in this study")
        return
    name = comparison.objective.name
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("design", no_wrap=True)
    table.add_column(name, justify="right", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=1)
    for head in ("of", name, "better by", *comparison.costs):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for duel in comparison.duels:
        table.add_row(*_cells(duel, comparison))
    console.print(table)
    costs = ", ".join(comparison.costs)
    legend = f"found: the most certain improvement among `of` architectures with no higher {costs}"
    legend += "; percentages: change in cost"
    if comparison.standings.noise is None:
        legend += "; no architecture was trained twice: `nas refine` adds intervals"
    else:
        legend += "; ±: simultaneous 90% interval over these architectures"
    console.print(f"[dim]{legend}[/]", soft_wrap=True)


def _cells(duel: Duel, comparison: VersusBaselines) -> list[Text]:
    show = comparison.objective.metric.format
    outcome = Text(duel.outcome, style=_STYLES.get(duel.outcome, "yellow"))
    cells = [Text(duel.baseline.name, style="magenta"), Text(show(comparison.value(duel.baseline)))]
    if duel.rival is None or duel.ahead is None:
        return [*cells, *[Text()] * (4 + len(comparison.costs)), outcome]
    half = "" if duel.half is None else f" ±{show(duel.half)}"
    changes = [duel.rival.metrics[name] / duel.baseline.metrics[name] - 1 for name in comparison.costs]
    return [
        *cells,
        Text(f"{duel.rival.name} {duel.rival.line}"),
        Text(str(duel.rivals)),
        Text(show(comparison.value(duel.rival))),
        Text(f"{show(duel.ahead)}{half}"),
        *[Text(f"{change:+.0%}") for change in changes],
        outcome,
    ]
