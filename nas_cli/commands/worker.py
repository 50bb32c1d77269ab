"""`nas worker`: another process, here or on another machine, that joins a study."""

from __future__ import annotations

from typing import Annotated

import typer

from nas_cli.opening import open_study
from nas_cli.options import (
    DEFAULT_EACH,
    DEFAULT_RUNS,
    MOST,
    DeviceOption,
    EachOption,
    RunsOption,
    StorageOption,
    StudyArgument,
)
from nas_cli.render.screen import console, errors


def add_to(app: typer.Typer) -> None:
    app.command("worker")(worker)


def worker(
    study: StudyArgument,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help="Stop when the study has so many trained architectures, or repeats."
        ),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Train repeats, as `nas refine` does, not new architectures.")
    ] = False,
    each: EachOption = DEFAULT_EACH,
    device: DeviceOption = "auto",
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Join a study: train its trials until it has enough, or until Ctrl-C.

    From another machine give the study's --storage URL; the text is prepared there again, the same.
    """
    from studies.training.devices import DeviceLost
    from studies.workers.join import join
    from studies.workers.supervisor import LOST

    opened = open_study(study, runs, storage)
    opened.join()
    try:
        reason = join(
            opened, target=trials, device=device, most_runs=each if refine else None,
            log=lambda line: console.print(line, markup=False, soft_wrap=True),
        )  # fmt: skip
    except DeviceLost as error:
        told = f"the device is lost to this worker, start it again; {error}"
        errors.print(told, markup=False, soft_wrap=True)
        raise typer.Exit(LOST) from None
    console.print(reason)
