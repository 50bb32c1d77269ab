"""`nas worker`: another process, here or on another machine, that joins a study."""

from __future__ import annotations

from typing import Annotated

import typer

from nas_cli.options import DEFAULT_RUNS, DeviceOption, RunsOption, StorageOption, StudyArgument
from nas_cli.screen import console


def add_to(app: typer.Typer) -> None:
    app.command("worker")(worker)


def worker(
    study: StudyArgument,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Stop when the study has so many trained architectures.")
    ] = None,
    device: DeviceOption = "auto",
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Join a study: train its trials until it has enough, or until Ctrl-C.

    From another machine give the study's --storage URL; the text is prepared there again, the same.
    """
    from studies.study import Study
    from studies.worker import work

    opened = Study.open(study, runs, storage)
    reason = work(
        opened,
        target=trials,
        device=device,
        log=lambda line: console.print(line, markup=False, soft_wrap=True),
    )
    opened.write_front()
    console.print(reason)
