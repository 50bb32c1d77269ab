"""`nas front`: the Pareto front of a study as a table, JSON, CSV or a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from nas_cli.help import add_command
from nas_cli.opening import open_study
from nas_cli.options import JsonOption, PlotOption, RunsOption, StorageOption, StudyArgument
from nas_cli.render.screen import console, print_json
from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from studies.analysis.front_report import FrontReport


def add_to(app: typer.Typer) -> None:
    """Add `front` to `app`."""
    add_command(
        app,
        "front",
        front,
        "nas front demo",
        "nas front demo --baselines",
        "nas front demo --plot front.png --csv front.csv",
    )


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
    from studies.analysis.front_report import FrontReport
    from studies.reporting.csv_table import write_csv
    from studies.reporting.drawing import check_plot_path
    from studies.reporting.front_plot import plot_front

    if plot is not None:
        check_plot_path(plot)
    opened = open_study(study, runs, storage)
    # before anything is written, so that a study that can't be compared leaves no plot behind
    report = FrontReport.of(opened, every)
    if plot is not None:
        plot_front(opened, report.standings, plot)
    if csv is not None:
        to_stdout = str(csv) == "-"
        path = None if to_stdout else csv
        write_csv(report.shown, opened.space.objectives, path, report.standings, report.marks)
        if to_stdout:
            return
    if as_json:
        print_json(report.to_dict())
        return
    if baselines:
        from nas_cli.render.designs import print_designs

        print_designs(report.versus_baselines, opened.space, _refine(opened.name, runs))
    else:
        from studies.study.settings import MILP

        _print(report, runs)
        if opened.settings.sampler != MILP:  # it draws nothing at random
            console.print(str(report.versus_random))
    for written in (plot, csv):
        if written is not None:
            console.print(f"wrote {written}")


def _refine(name: str, runs: Path) -> str:
    """Return the command that runs the closest architectures again."""
    return f"nas refine {name}" + ("" if runs == DEFAULT_RUNS else f" --dir {runs}")


def _print(report: FrontReport, runs: Path) -> None:
    from nas_cli.render.marks import mark_legend
    from nas_cli.render.scatter import scatter
    from nas_cli.render.strip import legend
    from nas_cli.render.tables import trial_table
    from nas_cli.render.verdict import print_verdict

    study, records, standings = report.study, report.records, report.standings
    done = sum(record.state == "trained" for record in records)
    scratch, verb = study.space.model is None, study.space.done_word
    if not done:
        what = "architecture" if scratch else "design"
        console.print(f"study {study.name} has no {verb} {what} yet")
        return
    objectives = study.space.objectives
    front = [row.record for row in standings.front]
    title = f"{study.name}: {len(front)} of {done} {verb} are on the front"
    if report.every:
        title = f"{study.name}: all {done} {verb}"
    elif standings.near:
        title += f", {len(standings.near)} more may be"
    if console.is_terminal and len(objectives) > 1:
        width, height = min(console.width, 110), 16
        console.print(scatter(records, front, objectives, width=width, height=height, marks=report.marks))
    marks = report.marks
    table = trial_table(
        report.shown, study.space, title=title, standings=standings, marks=marks, elsewhere="--json"
    )
    console.print(table)
    units = ", ".join(f"{item.name} in {item.metric.unit}" for item in objectives)
    signs = mark_legend(report.shown, marks)
    console.print(f"[dim]{units}{f'; {signs}' if signs else ''}[/]")
    for pick in marks.picks:
        if since := marks.since(pick):
            console.print(f"picked {escape(pick.name)}: {escape(since)}", soft_wrap=True)
    console.print(legend(*(record.build() for record in report.shown), marks=False))
    print_verdict(study, records, standings, marks, report.versus_baselines, runs)
