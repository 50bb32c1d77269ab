"""`nas report`: one page about a study, to read or to send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_cli.help import add_command
from nas_cli.opening import open_study
from nas_cli.options import RunsOption, StorageOption, StudyArgument
from nas_cli.render.screen import notes, starting
from studies.files.defaults import DEFAULT_RUNS


def add_to(app: typer.Typer) -> None:
    """Add `report` to `app`."""
    add_command(app, "report", report, "nas report demo", "nas report demo -o demo.html")


def report(
    study: StudyArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o",
            help="Write the page to this .html file. Default: report.html in the study's folder.",
        ),
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:  # fmt: skip
    """Write one HTML page: question, space, front, picks, baselines, audits, curves, costs, commands."""
    from studies.reporting.drawing import check_page_path

    if output is not None:
        check_page_path(output)
    opened = open_study(study, runs, storage)
    path = output or opened.folder / "report.html"
    with starting("drawing the page"):
        from studies.audit.verdicts import verdicts
        from studies.reporting.drawing import write_page
        from studies.reporting.report_page import report_page

        write_page(report_page(opened, verdicts(opened)), path)
    notes.print(f"wrote {path}")
