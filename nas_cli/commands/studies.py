"""`nas studies`: the studies of a folder, with their kind, trials, best value and last activity."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from nas_cli.help import add_command
from nas_cli.options import JsonOption, RunsOption
from nas_cli.render.screen import console, duration, print_json
from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from studies.study.overview import Overview

_DAY = 24 * 3600


def add_to(app: typer.Typer) -> None:
    """Add `studies` to `app`."""
    add_command(app, "studies", studies, "nas studies", "nas studies --dir /data/runs --json")


def studies(as_json: JsonOption = False, runs: RunsOption = DEFAULT_RUNS) -> None:
    """List the studies of a folder: kind, trials by state, best value and last activity."""
    from studies.study.overview import overviews

    listed = overviews(runs)
    if as_json:
        print_json([item.to_dict() for item in listed])
        return
    if not listed:
        console.print(f"there is no study in {runs}; next: [bold]nas search tiny[/] starts one")
        return
    console.print(_table(listed))
    where = "" if runs == DEFAULT_RUNS else f" --dir {runs}"
    name = next((item.name for item in listed if not item.problem), listed[0].name)
    console.print(
        f"\nnext: [bold]nas show {name}{where}[/], [bold]nas front {name}{where}[/]", soft_wrap=True
    )


def _table(listed: list[Overview]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("study", no_wrap=True, style="bold")
    table.add_column("kind", overflow="fold")
    table.add_column("trials", overflow="fold")
    table.add_column("best", overflow="fold")
    table.add_column("last active", no_wrap=True)
    for item in listed:
        if item.problem:
            table.add_row(Text(item.name), Text("–"), Text(item.problem, style="red"), "–", "–")
            continue
        kind = "from scratch" if item.model is None else f"in {PurePath(item.model).name}"
        states = ", ".join(f"{count} {state}" for state, count in item.states.items())
        table.add_row(Text(item.name), Text(kind), Text(states or "none"), Text(_best(item)), _when(item))
    return table


def _best(item: Overview) -> str:
    from surgery.architecture.metrics import parse_metric

    if item.best is None:
        return f"no {item.objective} yet"
    return f"{item.objective} {parse_metric(item.objective)[0].format(item.best)} (#{item.trial})"


def _when(item: Overview) -> str:
    """Return how long ago a trial began or ended, in the largest unit."""
    if item.workers:
        return f"now: {item.workers} worker{'' if item.workers == 1 else 's'}"
    if item.last is None:
        return "–"
    seconds = max(0.0, (datetime.now(UTC) - item.last).total_seconds())
    days = int(seconds // _DAY)
    return f"{days} day{'' if days == 1 else 's'} ago" if days else f"{duration(seconds)} ago"
