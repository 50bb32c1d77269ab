"""Losses of a healing: original, control, before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nas_cli.render.screen import console

if TYPE_CHECKING:
    from studies.healing.report import Healing


def print_healing(healing: Healing) -> None:
    """Print the held-out losses as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("held-out text", no_wrap=True)
    table.add_column("nats/token", justify="right")
    table.add_column("bits/byte", justify="right")
    table.add_column("KL from the original", justify="right")
    for name, loss, bpb, kl in healing.rows():
        style = "bold" if name == healing.kept else ""
        table.add_row(Text(name, style), f"{loss:.4f}", f"{bpb:.4f}", f"{kl:.4f}" if kl is not None else "")
    console.print()
    console.print(table)
