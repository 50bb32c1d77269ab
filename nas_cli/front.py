"""`nas front`: the Pareto front of a study as a table, JSON, CSV or a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_cli.options import DEFAULT_RUNS, JsonOption, RunsOption, StorageOption, StudyArgument
from nas_cli.screen import console, print_json


def add_to(app: typer.Typer) -> None:
    app.command("front")(front)


def front(
    study: StudyArgument,
    every: Annotated[
        bool, typer.Option("--all", help="Every trained architecture, not the front alone.")
    ] = False,
    as_json: JsonOption = False,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV; - for standard output.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it: a .png, .svg or .pdf picture, or an .html page.")
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Show the architectures that no other beats in every objective."""
    from studies.plots import check_plot_path, plot_front
    from studies.study import Study
    from studies.tabular import write_csv
    from studies.versus_random import compare

    if plot is not None:
        check_plot_path(plot)
    opened = Study.open(study, runs, storage)
    records = opened.records()
    best = opened.front()
    shown = [record for record in records if record.state == "done"] if every else best
    if plot is not None:
        plot_front(opened, plot)
    if csv is not None:
        write_csv(shown, opened.space.objectives, None if str(csv) == "-" else csv)
        if str(csv) == "-":
            return
    rivals = compare(opened, records)
    if as_json:
        objectives = {item.name: item.direction for item in opened.space.objectives}
        print_json({
            "study": opened.name,
            "objectives": objectives,
            "units": {item.name: item.metric.unit for item in opened.space.objectives},
            "trained": sum(record.trained for record in records),
            "versus_random": rivals.to_dict(),
            "front": [record.to_dict() for record in shown],
        })  # fmt: skip
        return
    _print(opened.name, shown, every, len(best), sum(record.state == "done" for record in records), opened)
    console.print(str(rivals))
    for path in (plot, csv):
        if path is not None:
            console.print(f"wrote {path}")


def _print(name: str, shown, every: bool, on_front: int, done: int, opened) -> None:  # type: ignore[no-untyped-def]
    from nas_cli.scatter import scatter
    from nas_cli.tables import trial_table

    if not done:
        console.print(f"study {name} has no trained architecture yet")
        return
    objectives = opened.space.objectives
    title = (
        f"{name}: all {done} trained" if every else f"{name}: {on_front} of {done} trained are on the front"
    )
    if console.is_terminal and len(objectives) > 1:
        width, height = min(console.width, 110), 16
        console.print(scatter(opened.records(), opened.front(), objectives, width=width, height=height))
    console.print(trial_table(shown, objectives, title=title))
    units = ", ".join(f"{item.name} in {item.metric.unit}" for item in objectives)
    console.print(f"[dim]{units}[/]")
