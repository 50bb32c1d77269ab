"""`nas front`: the Pareto front of a study as a table, JSON, CSV or a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_cli.opening import open_study
from nas_cli.options import DEFAULT_RUNS, JsonOption, PlotOption, RunsOption, StorageOption, StudyArgument
from nas_cli.render.screen import console, print_json

if TYPE_CHECKING:
    from studies.analysis.standings import Standings
    from studies.study import Study
    from studies.study.trial_record import TrialRecord


def add_to(app: typer.Typer) -> None:
    """Add `front` to `app`."""
    app.command("front")(front)


def front(
    study: StudyArgument,
    every: Annotated[
        bool, typer.Option("--all", help="Show all trained architectures, not only the front.")
    ] = False,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Compare the published baselines with the best rivals found.")
    ] = False,
    as_json: JsonOption = False,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV; - for stdout.")] = None,
    plot: PlotOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Show the Pareto front of a study."""
    from studies.analysis.standings import Standings
    from studies.analysis.versus_baselines import VersusBaselines
    from studies.analysis.versus_random import compare
    from studies.reporting.csv_table import write_csv
    from studies.reporting.drawing import check_plot_path
    from studies.reporting.front_plot import plot_front

    if plot is not None:
        check_plot_path(plot)
    opened = open_study(study, runs, storage)
    records = opened.records()
    standings = Standings.of(opened, records)
    shown = [row.record for row in standings.shown]
    if every:
        shown = [record for record in records if record.state == "done"]
    # before anything is written, so that a study that can't be compared leaves no plot behind
    rivals = compare(opened, records)
    designs = VersusBaselines(records, standings, opened.space)
    if plot is not None:
        plot_front(opened, standings, plot)
    if csv is not None:
        write_csv(shown, opened.space.objectives, None if str(csv) == "-" else csv, standings)
        if str(csv) == "-":
            return
    if as_json:
        objectives = {item.name: item.direction for item in opened.space.objectives}
        listed = [standings.standing(record) for record in shown] if every else standings.front
        print_json({
            "study": opened.name,
            "objectives": objectives,
            "units": {item.name: item.metric.unit for item in opened.space.objectives},
            "trained": sum(record.trained for record in records),
            "repeats": sum(record.repeated for record in records),
            "noise": standings.noise_dict(),
            "settled": standings.noise is not None and not standings.undecided,
            "versus_random": rivals.to_dict(),
            "versus_baselines": designs.to_dict(),
            "front": [standings.to_dict(row) for row in listed],
            "near_front": [standings.to_dict(row) for row in standings.near],
        })  # fmt: skip
        return
    if baselines:
        from nas_cli.render.designs import print_designs

        print_designs(designs)
    else:
        _print(opened, records, standings, shown, every, runs)
        console.print(str(rivals))
    for path in (plot, csv):
        if path is not None:
            console.print(f"wrote {path}")


def _print(
    study: Study,
    records: list[TrialRecord],
    standings: Standings,
    shown: list[TrialRecord],
    every: bool,
    runs: Path,
) -> None:
    from nas_cli.render.scatter import scatter
    from nas_cli.render.tables import trial_table
    from nas_cli.render.verdict import print_verdict

    done = sum(record.state == "done" for record in records)
    if not done:
        console.print(f"study {study.name} has no trained architecture yet")
        return
    objectives = study.space.objectives
    front = [row.record for row in standings.front]
    title = f"{study.name}: {len(front)} of {done} trained are on the front"
    if every:
        title = f"{study.name}: all {done} trained"
    elif standings.near:
        title += f", {len(standings.near)} more may be"
    if console.is_terminal and len(objectives) > 1:
        width, height = min(console.width, 110), 16
        console.print(scatter(records, front, objectives, width=width, height=height))
    console.print(trial_table(shown, objectives, title=title, standings=standings))
    units = ", ".join(f"{item.name} in {item.metric.unit}" for item in objectives)
    console.print(f"[dim]{units}[/]")
    print_verdict(study.name, records, standings, runs)
