"""`nas doctor`: checks this machine, and a study; repairs a damaged journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from nas_cli.help import add_command
from nas_cli.options import JsonOption, RunsOption, StorageOption
from nas_cli.render.screen import console, print_json
from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from studies.study.journal_repair import Repair
    from studies.workers.doctor import Finding

COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


def add_to(app: typer.Typer) -> None:
    """Add `doctor` to `app`."""
    add_command(
        app,
        "doctor",
        doctor,
        "nas doctor",
        "nas doctor demo",
        "nas doctor demo --repair",
    )


def doctor(
    study: Annotated[str | None, typer.Argument(help="Also check this study: its name or folder.")] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Replace the study's damaged journal with the lines before the damage. "
            "The damaged file is kept.",
        ),
    ] = False,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Check devices, versions, prepared text and, if given, a study.

    Exits with code 2 if something must be fixed.
    """
    if repair and study is None:
        raise typer.BadParameter("needs a study", param_hint="--repair")
    from studies.workers.doctor import FAULT, examine_machine, examine_study

    repaired: Repair | None = None
    if repair:
        from studies.study.journal_repair import repair as repair_journal
        from studies.study.names import locate

        assert study is not None
        repaired = repair_journal(locate(study, runs))
    findings = [] if repair else examine_machine()
    if study is not None:
        findings += examine_study(study, runs, storage)
    if as_json:
        data = {"findings": [finding.to_dict() for finding in findings]}
        print_json({**data, "repair": None if repaired is None else _to_dict(repaired)})
    else:
        if repaired is not None:
            _print_repair(repaired)
        _print(findings)
    if any(finding.state == FAULT for finding in findings):
        raise typer.Exit(2)


def _to_dict(repaired: Repair) -> dict[str, object]:
    return {
        "damage": None if repaired.damage is None else str(repaired.damage),
        "lines_kept": repaired.lines,
        "lines_dropped": repaired.dropped,
        "trials_kept": repaired.trials,
        "set_aside": [str(path) for path in repaired.set_aside],
    }


def _print_repair(repaired: Repair) -> None:
    if repaired.damage is None:
        console.print("the journal is intact, nothing was changed")
        return
    line, kept = repaired.damage.line, f"{repaired.lines} lines with {repaired.trials} trials"
    console.print(f"repaired: kept {kept}, dropped {repaired.dropped} from line {line} on", soft_wrap=True)
    for path in repaired.set_aside:
        console.print(Text(f"damaged file kept as {path}"), soft_wrap=True)
    console.print("run the same search again to train what is missing")


def _print(findings: list[Finding]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        hint = f"\n{finding.hint}" if finding.hint else ""
        state = Text(finding.state, style=COLOURS[finding.state])
        table.add_row(finding.what, state, Text.assemble(finding.result, (hint, "cyan")))
    console.print(table)
