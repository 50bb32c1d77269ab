"""`nas studies`: the studies of a folder, with their kind, trials, best value and last activity."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.text import Text

from nas_cli.help import add_command
from nas_cli.options import JsonOption, RunsOption
from nas_cli.render.fitted import Column, fitted_table
from nas_cli.render.screen import console, duration, print_json
from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from rich.table import Table

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
    for item in listed:
        if item.problem:
            console.print(f"[red]{escape(item.name)}[/]: {escape(item.problem)}", soft_wrap=True)
    where = "" if runs == DEFAULT_RUNS else f" --dir {runs}"
    name = next((item.name for item in listed if not item.problem), listed[0].name)
    console.print(
        f"\nnext: [bold]nas show {name}{where}[/], [bold]nas front {name}{where}[/]", soft_wrap=True
    )


def _table(listed: list[Overview]) -> Table:
    columns = [
        Column("study", least=12, justify="left"),
        Column("kind", rank=1, least=12, justify="left", fold=True),
        Column("trials", least=16, justify="left", fold=True),
        Column("best", rank=2, least=12, justify="left", fold=True),
        Column("last active", rank=3, least=10, justify="left", fold=True),
    ]
    rows: list[list[Text | str]] = []
    for item in listed:
        if item.problem:
            rows.append([Text(item.name, "bold"), "–", Text("can't be read", "red"), "–", "–"])
            continue
        kind = "from scratch" if item.model is None else f"in {PurePath(item.model).name}"
        states = ", ".join(f"{count} {state}" for state, count in item.states.items())
        cells: list[Text | str] = [Text(kind), Text(states or "none"), Text(_best(item)), _when(item)]
        rows.append([Text(item.name, "bold"), *cells])
    return fitted_table(columns, rows)


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
