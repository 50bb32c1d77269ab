"""Comparison of published baselines with a study's best architectures: `nas front --baselines`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nas_cli.render.headers import header
from nas_cli.render.names import Names
from nas_cli.render.screen import console

if TYPE_CHECKING:
    from search_spaces import SearchSpace
    from studies.analysis.versus_baselines import Duel, VersusBaselines

WIDE = 110  # columns of a terminal from which on found architectures are written out
_STYLES = {"beaten": "green", "not beaten": "red"}


def print_designs(comparison: VersusBaselines, space: SearchSpace) -> None:
    """Print one row per baseline: its result, the best rival at no higher cost, the gain and cost changes."""
    if not comparison.duels:
        console.print("no published baseline was trained in this study")
        return
    name = comparison.objective.name
    names, narrow = Names(space), console.width < WIDE
    written_out = not narrow and space.replacements is None  # layouts of pretrained models are too long
    table = Table(
        box=None, pad_edge=False, collapse_padding=narrow, padding=(0, 1, 0, 0) if narrow else (0, 1),
        header_style="bold",
    )  # fmt: skip
    table.add_column("design", overflow="fold", no_wrap=not narrow)
    table.add_column(header(name, narrow=narrow), justify="right", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=1 if written_out else None)
    for head in ("of", name, "better by", *comparison.costs):
        table.add_column(header(head, narrow=narrow), justify="right", no_wrap=True)
    table.add_column("", no_wrap=not narrow)
    for duel in comparison.duels:
        table.add_row(*_cells(duel, comparison, names, written_out=written_out))
    console.print(table)
    costs = ", ".join(comparison.costs)
    legend = f"found: the most certain improvement among `of` architectures with no higher {costs}"
    legend += "; percentages: change in cost"
    if comparison.standings.noise is None:
        legend += "; no architecture was trained twice: `nas refine` adds intervals"
    else:
        legend += "; ±: simultaneous 90% interval over these architectures"
    console.print(f"[dim]{legend}[/]", soft_wrap=True)


def _cells(duel: Duel, comparison: VersusBaselines, names: Names, *, written_out: bool) -> list[Text]:
    show = comparison.objective.metric.format
    outcome = Text(duel.outcome, style=_STYLES.get(duel.outcome, "yellow"))
    cells = [Text(names.name(duel.baseline), style="magenta"), Text(show(comparison.value(duel.baseline)))]
    if duel.rival is None or duel.ahead is None:
        return [*cells, *[Text()] * (4 + len(comparison.costs)), outcome]
    half = "" if duel.half is None else f" ±{show(duel.half)}"
    changes = [duel.rival.metrics[name] / duel.baseline.metrics[name] - 1 for name in comparison.costs]
    return [
        *cells,
        Text(f"{names.name(duel.rival)} {names.design(duel.rival)}" if written_out else duel.rival.name),
        Text(str(duel.rivals)),
        Text(show(comparison.value(duel.rival))),
        Text(f"{show(duel.ahead)}{half}"),
        *[Text(f"{change:+.0%}") for change in changes],
        outcome,
    ]
