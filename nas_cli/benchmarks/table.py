"""`nas bench table`: the table that searches are replayed on, for use without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_cli.files import check_free
from nas_cli.help import add_command
from nas_cli.options import JsonOption
from nas_cli.render.screen import console, notes, print_json


def add_to(bench: typer.Typer) -> None:
    """Add `table` to `bench`."""
    add_command(
        bench, "table", table, "nas bench table", "nas bench table -o nas-table.parquet",
        "nas bench table --syne-tune nas-table",
    )  # fmt: skip


def table(
    source: Annotated[
        Path | None,
        typer.Option("--table", help="Table file, .json.gz or .parquet. Default: the one of the package."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write a .parquet file: a row for each point of a loss curve."),
    ] = None,
    syne_tune: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write a blackbox that Syne Tune reads without this package."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a table of trained architectures, and write it for other tools."""
    from studies.replay.public import open_table, write_parquet, write_syne_tune
    from studies.replay.table import FILE
    from surgery.config.problems import Problem, UserError

    if output is not None and output.suffix != ".parquet":
        raise UserError(
            "can't write a table there", [Problem("--output", str(output), "must end in .parquet")]
        )
    for path in (output, syne_tune):
        if path is not None and not overwrite:
            check_free(path, what="table")
    opened = open_table(source or FILE)
    facts = {
        "architectures": len(opened.entries),
        "runs": sum(len(entry.curves) for entry in opened.entries.values()),
        "fractions": list(opened.fractions),
        "tokens": opened.space.proxy.tokens,
        "front": len(opened.front),
        "about": dict(opened.about),
    }
    if as_json:
        print_json(facts)
    else:
        console.print(
            f"{facts['architectures']:,} architectures of {opened.space.name}, {facts['runs']:,} runs of "
            f"{opened.space.proxy.tokens:,} tokens with {len(opened.fractions)} points each, "
            f"{len(opened.front)} on the front; {opened.about.get('corpus', 'unknown text')}, "
            f"{opened.about.get('device', 'unknown device')}",
            soft_wrap=True,
        )
    if output is not None:
        write_parquet(opened, output)
        notes.print(f'wrote {output}; pandas.read_parquet("{output}") reads it', soft_wrap=True)
    if syne_tune is not None:
        write_syne_tune(opened, syne_tune, opened.space.name)
        notes.print(
            f"wrote {syne_tune}; deserialize of syne_tune.blackbox_repository.blackbox_tabular reads it",
            soft_wrap=True,
        )
