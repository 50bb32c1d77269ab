"""Why a design of a pretrained model was chosen, on screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from nas_cli.render.headers import header
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
    title = "why: what each replacement costs alone, and what it saves"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", justify="right")
    table.add_column("part")
    table.add_column("replacement", overflow="fold")
    for head in ("KL", "±", "rank", *(f"saves\n{header(name)}" for name in metrics)):
        table.add_column(head, justify="right", no_wrap=True)
    for item in explanation.reasons:
        saves = [saving(name, value) for name, value in item.saves.items()]
        table.add_row(
            str(item.layer), item.part, short[item.part, item.replacement], precise(item.kl),
            precise(item.standard_error), f"{item.rank}/{item.layers}", *saves,
        )  # fmt: skip
    console.print(table)
    measured = "" if explanation.measured is None else f", the design measured {explanation.measured:.4f}"
    console.print(f"  scores add up to [bold]{explanation.summed:.4f}[/]{measured} nats/token")
    console.print(
        "[dim]KL and its standard error in nats/token, of this replacement alone; rank among the layers that "
        "have it, 1 being the lowest KL[/]"
    )
