"""The preview of a search, on screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nas_cli.render.screen import console, duration, own_command, starting
from surgery.config.quantities import format_bytes, format_count

if TYPE_CHECKING:
    from studies.workers.preview import Upcoming
    from studies.workers.request import SearchRequest


def print_preview(request: SearchRequest) -> None:
    """Print what a search would do; a search from scratch times its first architectures on the device."""
    from studies.study.lookup import check_new, find_here

    space = request.space
    folder = check_new(request.study_name, request.runs, request.storage)
    known = find_here(folder, request.storage) is not None
    title = f"[bold]{request.study_name}[/]: a dry run, nothing is kept"
    console.print(title + ("; the study exists, and would be resumed" if known else ""))
    console.print(
        f"space {escape(space.name)}, {space.size()}; {request.trials} architectures, "
        f"{request.workers} worker{'' if request.workers == 1 else 's'}, sampler {request.chosen_sampler}, "
        f"seed {request.seed}; text {escape(request.data or space.data.corpus)}",
        soft_wrap=True,
    )
    if space.replacements is None:
        _print_from_scratch(request)
    else:
        _print_library(request)
    command = own_command().replace(" --dry-run", "")
    console.print(f"next: [bold]{escape(command)}[/]", soft_wrap=True)


def _print_from_scratch(request: SearchRequest) -> None:
    from studies.workers.preview import preview

    with starting("drawing and timing the first architectures"):
        result = preview(request)
    console.print(_table(request, result.first))
    stopped = "" if request.stopping == "none" else "; early stopping ends some sooner"
    if result.seconds is not None:
        console.print(
            f"time: about {duration(result.seconds)} for all, by the median of these and without "
            f"evaluations{stopped}",
            soft_wrap=True,
        )
    console.print(
        f"memory: {format_bytes(result.memory)} a worker for weights, gradients and optimizer of the largest "
        f"of these, and activations; disk: as much for each paused trial",
        soft_wrap=True,
    )


def _table(request: SearchRequest, first: tuple[Upcoming, ...]) -> Table:
    from surgery.architecture.costs import cost

    costs = [item for item in request.space.objectives if item.metric.analytic]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("first", no_wrap=True)
    table.add_column("architecture", overflow="fold")
    for objective in costs:
        table.add_column(objective.name, justify="right", no_wrap=True)
    table.add_column("training", justify="right", no_wrap=True)
    for number, item in enumerate(first):
        time = Text(item.problem, style="red") if item.seconds is None else Text(duration(item.seconds))
        values = [one.metric.format(cost(item.architecture, one.name)) for one in costs]
        table.add_row(Text(f"#{number} {item.name}"), Text(item.architecture.line), *values, time)
    return table


def _print_library(request: SearchRequest) -> None:
    from studies.workers.preview import preview_library

    result = preview_library(request)
    console.print(
        f"library: {result.replacements} replacements are fitted to {format_count(result.fit_tokens)} tokens "
        f"of text, where no earlier search has; for all scores {format_count(result.scored_tokens)} tokens "
        "run through the layers above what is replaced",
        soft_wrap=True,
    )
    console.print(
        f"memory: {format_bytes(result.memory)} for the model in float32, and activations; "
        f"disk: at most {format_bytes(result.disk)} for the library",
        soft_wrap=True,
    )
