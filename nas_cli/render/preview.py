"""The preview of a search, on screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.text import Text

from nas_cli.render.fitted import Column, fitted_table
from nas_cli.render.screen import console, duration, own_command, starting
from surgery.config.quantities import format_bytes, format_count

if TYPE_CHECKING:
    from rich.table import Table

    from studies.study import Study
    from studies.workers.preview import Upcoming
    from studies.workers.request import SearchRequest


def print_preview(request: SearchRequest) -> None:
    """Print what a search would do; a search from scratch times its first architectures on the device."""
    space, study = request.space, request.existing()
    title = f"[bold]{request.study_name}[/]: a dry run, nothing is kept"
    count = 0 if study is None else _count(study)
    has = "" if study is None else f"has {count} architecture{'' if count == 1 else 's'}, target "
    console.print(title + ("; the study exists, and would be resumed" if study is not None else ""))
    console.print(
        f"space {escape(space.name)}, {space.size()}; {has}{request.trials} architectures, "
        f"{request.workers} worker{'' if request.workers == 1 else 's'}, sampler {request.chosen_sampler}, "
        f"seed {request.seed}; text {escape(request.data or space.data.corpus)}",
        soft_wrap=True,
    )
    if space.replacements is None:
        _print_from_scratch(request, study)
    else:
        _print_library(request)
    command = own_command().replace(" --dry-run", "")
    console.print(f"next: [bold]{escape(command)}[/]", soft_wrap=True)


def _count(study: Study) -> int:
    """Return how many architectures of a study count."""
    return sum(record.counted for record in study.records())


def _print_from_scratch(request: SearchRequest, study: Study | None) -> None:
    from studies.workers.preview import preview

    with starting(f"drawing and timing the {'first' if study is None else 'next'} architectures"):
        result = preview(request, study)
    if not result.first:
        console.print("nothing is left to train; more --trials continue the study", soft_wrap=True)
        return
    console.print(_table(request, result.first, "first" if study is None else "next"))
    stopped = "" if request.stopping == "none" else "; early stopping ends some sooner"
    if result.seconds is not None:
        console.print(
            f"time: about {duration(result.seconds)} for {_all(result.missing, study)}, by the median of "
            f"these and without evaluations{stopped}",
            soft_wrap=True,
        )
    console.print(
        f"memory: {format_bytes(result.memory)} a worker for weights, gradients and optimizer of the largest "
        f"of these, and activations; disk: as much for each paused trial",
        soft_wrap=True,
    )


def _all(missing: int, study: Study | None) -> str:
    return "all" if study is None else f"the {missing} that the study lacks"


def _table(request: SearchRequest, first: tuple[Upcoming, ...], title: str) -> Table:
    from surgery.architecture.costs import cost

    costs = [item for item in request.space.objectives if item.metric.analytic]
    columns = [
        Column(title, justify="left"),
        Column("architecture", least=18, justify="left", fold=True),
        *(Column(objective.name, rank=1) for objective in costs),
        Column("training"),
    ]
    rows: list[list[Text | str]] = []
    for item in first:
        time = Text(item.problem, style="red") if item.seconds is None else Text(duration(item.seconds))
        values = [one.metric.format(cost(item.architecture, one.name)) for one in costs]
        begun = f"from {item.begun:.0%}" if item.begun else ""
        name = " ".join(filter(None, [f"#{item.number}", item.name, begun]))
        rows.append([Text(name), Text(item.architecture.line), *values, time])
    return fitted_table(columns, rows, elsewhere="nas show once it is trained")


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
