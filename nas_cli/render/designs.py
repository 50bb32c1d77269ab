"""Comparison of published baselines with a study's best architectures: `nas front --baselines`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.text import Text

from nas_cli.render.fitted import Column, fitted_table
from nas_cli.render.screen import console
from studies.study.trial_names import Names

if TYPE_CHECKING:
    from search_spaces import SearchSpace
    from studies.analysis.versus_baselines import Duel, VersusBaselines

_STYLES = {"beaten": "green", "not beaten": "red"}


def print_designs(comparison: VersusBaselines, space: SearchSpace, command: str) -> None:
    """Print one row per baseline: its result, the best rival at no higher cost, the gain and cost changes.

    Args:
        comparison: of the baselines with the searched architectures.
        space: of the study.
        command: what trains the closest ones again, such as `nas refine demo`.
    """
    if not comparison.duels:
        console.print("no published baseline was trained in this study")
        return
    name, names = comparison.objective.name, Names(space)
    columns = [
        Column("design", least=11, justify="left"),
        Column(name, rank=2),
        Column("found", justify="left"),
        Column("architecture", rank=5, least=16, justify="left"),
        Column("of", rank=4),
        Column(name, rank=1),
        Column("at least"),
        *(Column(cost, rank=3) for cost in comparison.costs),
        Column("", justify="left"),
    ]
    console.print(fitted_table(columns, [_cells(duel, comparison, names) for duel in comparison.duels]))
    costs = ", ".join(comparison.costs)
    legend = f"found: the most certain improvement among `of` architectures with no higher {costs}"
    legend += "; percentages: change in cost"
    if comparison.standings.noise is not None:
        legend += (
            "; at least: by how much it is better, bounds that hold for all designs and rivals together, "
        )
        legend += "however often one looks (95%)"
    console.print(f"[dim]{legend}[/]")
    print_summary(comparison, command)


def print_summary(comparison: VersusBaselines, command: str = "") -> None:
    """Print which baselines are beaten, which are not told apart yet, and the command that helps then."""
    if comparison.duels:
        summary = comparison.summary()
        console.print(f"baselines: {escape(summary[:1].lower() + summary[1:])}")
    if command and comparison.undecided:
        console.print(f"[bold]{escape(command)}[/] runs the closest ones again", soft_wrap=True)


def _cells(duel: Duel, comparison: VersusBaselines, names: Names) -> list[Text]:
    show = comparison.objective.metric.format
    outcome = Text(duel.outcome, style=_STYLES.get(duel.outcome, "yellow"))
    cells = [Text(names.name(duel.baseline), style="magenta"), Text(show(comparison.value(duel.baseline)))]
    if duel.rival is None or duel.ahead is None:
        return [*cells, *[Text()] * (5 + len(comparison.costs)), outcome]
    changes = [duel.rival.metrics[name] / duel.baseline.metrics[name] - 1 for name in comparison.costs]
    return [
        *cells,
        Text(f"#{duel.rival.number}"),
        Text(names.design(duel.rival)),
        Text(str(duel.rivals)),
        Text(show(comparison.value(duel.rival))),
        Text("" if duel.at_least is None else show(duel.at_least)),
        *[Text(f"{change:+.0%}") for change in changes],
        outcome,
    ]
