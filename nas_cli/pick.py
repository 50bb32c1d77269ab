"""`nas pick`: one architecture of the front, written as a file for `nas apply` and `nas train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nas_cli.files import write_architecture
from nas_cli.options import DEFAULT_RUNS, JsonOption, RunsOption, StorageOption, StudyArgument
from nas_cli.screen import console, print_json


def add_to(app: typer.Typer) -> None:
    app.command("pick")(pick)


def pick(
    study: StudyArgument,
    limit: Annotated[
        list[str] | None,
        typer.Option(help='A limit such as "params<=40M" or "val_loss<=4.5"; repeat for more.'),
    ] = None,
    best: Annotated[
        str | None, typer.Option(help="Take the best in this objective; the knee of the front if left out.")
    ] = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Take this trial, whatever the front says.")
    ] = None,
    portable: Annotated[
        bool, typer.Option(help="Leave the backbone out, to put the design into a model of another size.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the architecture here.")
    ] = None,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Choose an architecture: at the knee, by an objective, within limits."""
    from studies.choosing import Choice, choose, read_limits
    from studies.study import Study

    limits = read_limits(limit or [])
    opened = Study.open(study, runs, storage)
    if trial is not None:
        choice = Choice(opened.record(trial), "asked for", {})
    else:
        choice = choose(opened.front(), opened.space.objectives, limits, best)
    record = choice.record
    text = record.build().to_yaml(backbone=not portable)
    if output is not None:
        write_architecture(output, f"# {record.name} of study {opened.name}: {record.line}\n{text}")
    if as_json:
        print_json({**record.to_dict(), "reason": choice.reason, "excluded": choice.excluded})
        return
    console.print(f"[bold]{record.name}[/] {escape(record.line)}  ({choice.reason})", soft_wrap=True)
    for objective, value in zip(opened.space.objectives, record.values or (), strict=False):
        console.print(f"  {objective.name:<24}{objective.metric.format(value)} {objective.metric.unit}")
    for told, count in choice.excluded.items():
        console.print(f"  [dim]{told} excluded {count} of the front[/]")
    if output is None:
        console.print(text, markup=False, soft_wrap=True)
    else:
        then = f"nas apply {output} MODEL -o OUT" if portable else f"nas train {output} -o OUT"
        console.print(f"wrote {output}; next: [bold]{then}[/]", soft_wrap=True)
