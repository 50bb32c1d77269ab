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
from nas_cli.render.screen import console, notes, print_json, print_warnings
from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from rich.console import Console

    from studies.analysis.pick import Choice
    from studies.analysis.standings import Standings
    from studies.study import Study
    from studies.study.picks import Pick


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
    _refuse(trial, best, limit)
    if output is not None and not overwrite:
        check_free(output)
    from studies.analysis.limits import read_limits
    from studies.analysis.marks import Marks
    from studies.analysis.pick import PickRequest
    from studies.analysis.standings import Standings
    from studies.study.picks import next_command
    from surgery.files.outputs import signed

    opened = open_study(study, runs, storage)
    model = opened.space.model
    limits = read_limits(limit or [], model.architecture if model is not None else None, opened.space.times)
    request = PickRequest(tuple(limits), best, trial)
    standings = Standings.of(opened)
    choice = request.choose(opened, standings)
    print_warnings(choice.warnings)
    record, names = choice.record, standings.names
    plain = record.build().to_yaml(tried_on=opened.space.proxy.seq_len if portable else None)
    text = f"# {names.name(record)} of study {opened.name}: {names.design(record)}\n{plain}"
    if output is not None:
        write_architecture(output, text)
    _record(opened, request.record_of(choice, standings, output, portable=portable))
    if as_json:
        print_json({**choice.to_dict(standings), **Marks.of(opened, standings).to_dict(record)})
        return
    _print(choice, standings, opened, notes if output is None else console)
    if output is None:
        print(signed(text), end="")
    else:
        command = next_command(str(output), None if model is None else model.name, portable=portable)
        console.print(f"wrote {output}; next: [bold]{command}[/]", soft_wrap=True)


def _refuse(trial: int | None, best: str | None, limits: list[str] | None) -> None:
    """Refuse --trial together with what chooses a trial.

    Raises:
        UserError: lists every such option.
    """
    from surgery.config.problems import Problems

    problems = Problems()
    for option, value in (("--best", best), *(("--limit", text) for text in limits or ())):
        if trial is not None and value is not None:
            rule = f"can't be given with --trial {trial}, which leaves nothing to choose"
            problems.add(option, value, rule, f"omit it, or --trial {trial}")
    problems.raise_if_any("can't pick by both")


def _record(study: Study, pick: Pick) -> None:
    """Store a pick in the study; say so where that can only be read."""
    from studies.storage.opening import STORAGE_ERRORS, reason_of
    from studies.study.picks import store_pick

    try:
        store_pick(study.inner, pick)
    except STORAGE_ERRORS as error:
        print_warnings([f"the pick could not be recorded in the study: {reason_of(error)}"])


def _print(choice: Choice, standings: Standings, study: Study, console: Console) -> None:
    record, row, names = choice.record, standings.standing(choice.record), standings.names
    title = f"[bold]{escape(names.name(record))}[/] {escape(names.design(record))}"
    console.print(f"{title}  ({escape(choice.reason)})", soft_wrap=True)
    for objective, value, half in zip(standings.objectives, record.values or (), row.half, strict=False):
        spread = f" ±{objective.metric.format(half)}" if half is not None else ""
        unit = "" if objective.metric.unit == "bytes" else f" {objective.metric.unit}"
        console.print(f"  {objective.name:<24}{objective.metric.format(value)}{spread}{unit}")
    if record.values is None and (rungs := record.at_rungs(study.space.proxy.rungs)):
        console.print(f"  held-out loss {rungs} of its tokens")
    if row.p_front is not None:
        ties = ", ".join(f"#{other.record.number}" for other in standings.ties(row))
        with_ties = f"; not told apart from {ties}" if ties else ""
        runs_text = f"{row.runs} run{'' if row.runs == 1 else 's'}"
        console.print(
            f"  on the front with probability {row.p_front:.2f} ({runs_text}){with_ties}", soft_wrap=True
        )
    if row.confirmed is not None:
        console.print(f"  confirmed: {row.confirmed.describe(standings.objectives)}", soft_wrap=True)
    elif standings.noise is not None and row.on_front:
        console.print("  [dim]± is too good for what was chosen for its result: nas refine confirms it[/]")
    for limit_text, count in choice.excluded.items():
        console.print(f"  [dim]{limit_text} excluded {count} of the front[/]")
    if choice.next_better is not None:
        console.print(f"  [dim]{choice.next_better}[/]", soft_wrap=True)
