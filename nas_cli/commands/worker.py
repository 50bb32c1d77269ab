"""`nas worker`: another process that joins a study, on this or another machine."""

from __future__ import annotations

from typing import Annotated

import typer

from nas_cli.help import add_command
from nas_cli.imports import load_torch
from nas_cli.opening import open_study
from nas_cli.options import (
    MOST,
    DeviceOption,
    EachOption,
    RunsOption,
    StorageOption,
    StudyArgument,
)
from nas_cli.render.counts import LanesOption
from nas_cli.render.screen import console, errors
from studies.files.defaults import DEFAULT_EACH, DEFAULT_RUNS


def add_to(app: typer.Typer) -> None:
    """Add `worker` to `app`."""
    add_command(
        app,
        "worker",
        worker,
        "nas worker demo --trials 50",
        "nas worker demo --storage postgresql://USER:PASSWORD@HOST/DATABASE --device cuda:1",
    )


def worker(
    study: StudyArgument,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST,
            help="Stop when the study has this many trained architectures (with --refine: repeats).",
        ),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Train repeats, as `nas refine` does, instead of new ones.")
    ] = False,
    each: EachOption = DEFAULT_EACH,
    lanes: LanesOption = 1,
    device: DeviceOption = "auto",
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Join a study as another worker, until it has enough trials or Ctrl-C.

    On another machine, give the study's --storage URL; the same text is prepared there again.
    """
    opened = open_study(study, runs, storage)
    load_torch()
    from studies.reporting.annotator import annotating
    from studies.training.devices import DeviceLost
    from studies.workers.join import join
    from studies.workers.supervisor import LOST

    opened.join()
    try:
        with annotating(opened):
            reason = join(
                opened, target=trials, device=device, lanes=lanes or None, most_runs=each if refine else None,
                log=lambda line: console.print(line, markup=False, soft_wrap=True),
            )  # fmt: skip
    except DeviceLost as error:
        text = f"this worker lost its device, start it again; {error}"
        errors.print(text, markup=False, soft_wrap=True)
        raise typer.Exit(LOST) from None
    console.print(reason)
