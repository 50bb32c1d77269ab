"""`nas pick`: choose an architecture of the front and write it as a file for `nas apply` and `nas train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from nas_cli.files import check_free, write_architecture
from nas_cli.help import add_command
from nas_cli.opening import open_study
from nas_cli.options import JsonOption, RunsOption, StorageOption, StudyArgument
from nas_cli.render.screen import console, notes, print_json
from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from rich.console import Console

    from studies.analysis.pick import Choice
    from studies.analysis.standings import Standings


def add_to(app: typer.Typer) -> None:
    """Add `pick` to `app`."""
    add_command(
        app,
        "pick",
        pick,
        "nas pick demo -o pick.yaml",
        "nas pick demo > pick.yaml",
        'nas pick demo --limit "params<=40M" --best val_loss',
        "nas pick demo --trial 12 --portable -o design.yaml",
    )


def pick(
    study: StudyArgument,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help='A limit such as "params<=40M", "val_loss<=4.5" or, of a pretrained model\'s own cost, '
            '"cache_bytes@8192<=25%"; may be repeated.'
        ),
    ] = None,
    best: Annotated[
        str | None, typer.Option(help="Pick the best in this objective. Default: the knee of the front.")
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Pick this trial, on the front or not.")] = None,
    portable: Annotated[
        bool, typer.Option(help="Omit the backbone, to apply the design to a model of another size.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the architecture to this file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Choose an architecture: the knee of the front or the best in an objective, within limits.

    Without --output, standard output holds the architecture's YAML and nothing else; what speaks for it is on
    standard error.
    """
    if output is not None and not overwrite:
        check_free(output)
    from studies.analysis.pick import PickRequest, read_limits
    from studies.analysis.standings import Standings
    from surgery.files.outputs import signed

    opened = open_study(study, runs, storage)
    model = opened.space.model
    limits = read_limits(limit or [], model.architecture if model is not None else None, opened.space.times)
    request = PickRequest(tuple(limits), best, trial)
    standings = Standings.of(opened)
    choice = request.choose(opened, standings)
    record, names = choice.record, standings.names
    plain = record.build().to_yaml(tried_on=opened.space.proxy.seq_len if portable else None)
    text = f"# {names.name(record)} of study {opened.name}: {names.design(record)}\n{plain}"
    if output is not None:
        write_architecture(output, text)
    if as_json:
        print_json(choice.to_dict(standings))
        return
    _print(choice, standings, notes if output is None else console)
    if output is None:
        print(signed(text), end="")
    else:
        command = f"nas apply {output} MODEL -o OUT" if portable else f"nas train {output} -o OUT"
        if model is not None:
            command = f"nas apply {output} {model.name} -o OUT --heal TOKENS --control"
        console.print(f"wrote {output}; next: [bold]{command}[/]", soft_wrap=True)


def _print(choice: Choice, standings: Standings, console: Console) -> None:
    record, row, names = choice.record, standings.standing(choice.record), standings.names
    title = f"[bold]{escape(names.name(record))}[/] {escape(names.design(record))}"
    console.print(f"{title}  ({escape(choice.reason)})", soft_wrap=True)
    for objective, value, half in zip(standings.objectives, record.values or (), row.half, strict=False):
        spread = f" ±{objective.metric.format(half)}" if half is not None else ""
        unit = "" if objective.metric.unit == "bytes" else f" {objective.metric.unit}"
        console.print(f"  {objective.name:<24}{objective.metric.format(value)}{spread}{unit}")
    if row.p_front is not None:
        ties = ", ".join(f"#{other.record.number}" for other in standings.ties(row))
        with_ties = f"; tied with {ties}" if ties else ""
        runs_text = f"{row.runs} run{'' if row.runs == 1 else 's'}"
        console.print(
            f"  on the front with probability {row.p_front:.2f} ({runs_text}){with_ties}", soft_wrap=True
        )
    for limit_text, count in choice.excluded.items():
        console.print(f"  [dim]{limit_text} excluded {count} of the front[/]")
    if choice.next_better is not None:
        console.print(f"  [dim]{choice.next_better}[/]", soft_wrap=True)
