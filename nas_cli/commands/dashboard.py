"""`nas dashboard`: Optuna Dashboard for a finished or running study, with architectures in its notes."""

from __future__ import annotations

from typing import Annotated

import typer

from nas_cli.help import add_command
from nas_cli.opening import open_study
from nas_cli.options import RunsOption, StorageOption, StudyArgument
from nas_cli.render.screen import console, errors, notes, print_warnings
from studies.files.defaults import DEFAULT_RUNS

LOCAL = ("127.0.0.1", "localhost", "::1")


def add_to(app: typer.Typer) -> None:
    """Add `dashboard` to `app`."""
    add_command(
        app,
        "dashboard",
        dashboard,
        "nas dashboard demo",
        "nas dashboard demo --port 0",
    )


def dashboard(
    study: StudyArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default accepts only local connections.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8080,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Show a study in the browser, finished or running. Ctrl-C stops the server.

    Each trial's note shows its architecture: a picture, costs and the YAML. Notes that you edit are kept.
    Graphs show the front, layers, loss curves and importances, artifacts the files of each trial.
    The page of `nas report` is served beside it.
    """
    from studies.audit.verdicts import verdicts
    from studies.reporting.dashboard import Dashboard
    from studies.reporting.report_page import report_page

    served = Dashboard(
        open_study(study, runs, storage), host, port, lambda opened: report_page(opened, verdicts(opened))
    )
    if host not in LOCAL:
        print_warnings(
            [f"anyone who can reach {host} can read, rename and delete the studies in this storage"]
        )
    console.print(f"study [bold]{served.study.name}[/]: {served.url}", soft_wrap=True)
    for what, where in (
        ("what was found, on one page", f"{served.report_url}, also linked at the top right"),
        ("the study's note", f"{served.url}/note, the lowest icon on the left"),
        ("front, baselines, what matters", "graphs on the first page, below Optuna's own"),
        (
            "an architecture",
            "its trial's note: the list icon on the left, or click on a point of a chart",
        ),
    ):
        notes.print(f"  [bold]{what}[/]: {where}", soft_wrap=True)
    try:
        served.serve()
    except KeyboardInterrupt:
        errors.print("dashboard stopped; the study is not affected")
