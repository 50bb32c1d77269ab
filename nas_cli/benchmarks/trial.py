"""`nas bench trial`: where the seconds of a search's trial go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nas_cli.completion import baselines
from nas_cli.help import add_command
from nas_cli.options import (
    CompileOption,
    DeviceOption,
    JsonOption,
    RoundsOption,
    SpaceArgument,
    ThreadsOption,
)
from nas_cli.render.screen import console, print_json, starting

if TYPE_CHECKING:
    from studies.benchmarks.trial import TrialTiming


def add_to(bench: typer.Typer) -> None:
    """Add `trial` to `bench`."""
    add_command(
        bench, "trial", trial, "nas bench trial tiny", "nas bench trial hybrid --baseline dense --device cuda"
    )


def trial(
    space: SpaceArgument,
    baseline: Annotated[
        str | None,
        typer.Option(autocompletion=baselines, help="Baseline to train. Default: the space's first."),
    ] = None,
    threads: ThreadsOption = None,
    rounds: RoundsOption = 1,
    compile: CompileOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Time a trial as in a search: the first and the second in one process, and one in a new process."""
    from search_spaces import load_space
    from studies.training.compilation import check_compile
    from studies.training.devices import describe, pick_device

    chosen = load_space(space)
    torch_device = pick_device(device)
    check_compile(compile, torch_device)
    from studies.benchmarks.trial import TrialPlan, measure_trials
    from studies.training.threads import choose_threads

    count = choose_threads(threads, chosen.backbone)
    plan = TrialPlan(chosen, baseline, device, compile, count, rounds)
    with starting("measuring") as say:
        timings = measure_trials(plan, say)
    about = {**describe(torch_device), "threads": str(count)}
    if as_json:
        print_json({"machine": about, "compile": compile, "trials": [item.to_dict() for item in timings]})
        return
    console.print(
        f"{baseline or chosen.baseline_names[0]} of {chosen.name}, {chosen.proxy.tokens:,} tokens, compile "
        f"{compile}, {about['device']}, {count} threads, torch {about['torch']}\n"
    )
    console.print(_table(timings))


def _table(timings: list[TrialTiming]) -> Table:
    from studies.benchmarks.trial import PHASES

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("seconds", no_wrap=True)
    for name in ("first trial", "second, same process", "in a new process"):
        table.add_column(name, justify="right")
        table.add_column("", justify="right")
    for phase in PHASES:
        cells = [(item.seconds[phase], item.seconds[phase] / item.total) for item in timings]
        table.add_row(phase, *(text for value, share in cells for text in (f"{value:.2f}", f"{share:.1%}")))
    table.add_section()
    spreads = (f"±{item.spread / 2:.0%}" if item.spread else "" for item in timings)
    totals = zip((f"{item.total:.2f}" for item in timings), spreads, strict=True)
    table.add_row("total", *(text for cells in totals for text in cells))
    overhead = (text for item in timings for text in ("", f"{item.overhead:.1%}"))
    table.add_row("other than training and evaluation", *overhead)
    table.add_row(
        "until the first step ended", *(text for item in timings for text in (f"{item.first_step_s:.2f}", ""))
    )
    return table
