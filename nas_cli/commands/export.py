"""`nas export`: every trial of a study as a table for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_cli.files import check_free
from nas_cli.help import add_command
from nas_cli.opening import open_study
from nas_cli.options import RunsOption, StorageOption, StudyArgument
from nas_cli.render.screen import notes
from studies.files.defaults import DEFAULT_RUNS


def add_to(app: typer.Typer) -> None:
    """Add `export` to `app`."""
    add_command(
        app,
        "export",
        export,
        "nas export demo -o trials.csv",
        "nas export demo -o trials.parquet",
        "nas export demo > trials.csv",
    )


def export(
    study: StudyArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o",
            help="Write to this file: .csv, .parquet or .jsonl. Default: CSV to standard output.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:  # fmt: skip
    """Write every trial of a study, with its searched fields, metrics, seeds, tokens, times and device."""
    from studies.reporting import export as table

    if output is not None:
        table.check_format(output)
        if not overwrite:
            check_free(output, what="trials")
    count = table.export(open_study(study, runs, storage), output)
    if output is not None:
        notes.print(f"wrote {count} trials to {output}")
