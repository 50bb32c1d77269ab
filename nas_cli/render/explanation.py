"""Why a design of a pretrained model was chosen, on screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from nas_cli.render.fitted import Cells, Column, fitted_table
from nas_cli.render.screen import console

if TYPE_CHECKING:
    from studies.reporting.explanation import Explanation


def print_explanation(explanation: Explanation, short: Mapping[tuple[str, str], str]) -> None:
    """Print a row for each replaced part, and the sum of the scores beside the measured KL divergence.

    Args:
        explanation: of the trial.
        short: labels for the table by (part, label).
    """
    from studies.reporting.explanation import precise, saving

    if not explanation.reasons:
        console.print("  nothing is replaced: this is the original model")
        return
    metrics = list(explanation.reasons[0].saves)
    columns = [
        Column("layer"),
        Column("part", justify="left"),
        Column("replacement", least=16, justify="left"),
        Column("KL"),
        Column("±", rank=1),
        Column("rank", rank=3),
        *(Column(f"saves {name}", rank=2) for name in metrics),
    ]
    rows: list[Cells] = [
        [
            str(item.layer), item.part, Text(short[item.part, item.replacement]), precise(item.kl),
            precise(item.standard_error), f"{item.rank}/{item.layers}",
            *(saving(name, value) for name, value in item.saves.items()),
        ]
        for item in explanation.reasons
    ]  # fmt: skip
    title = "why: what each replacement costs alone, and what it saves"
    console.print(fitted_table(columns, rows, title))
    measured = "" if explanation.measured is None else f", the design measured {explanation.measured:.4f}"
    console.print(f"  scores add up to [bold]{explanation.summed:.4f}[/]{measured} nats/token")
    console.print(
        "[dim]KL and its standard error in nats/token, of this replacement alone; rank among the layers that "
        "have it, 1 being the lowest KL[/]"
    )
