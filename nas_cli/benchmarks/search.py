"""`nas bench search`: how many tokens each sampler and stopping rule need to find a known front."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nas_cli.help import add_command
from nas_cli.options import MOST, JsonOption, PlotOption, refuse_without_effect
from nas_cli.render.counts import number
from nas_cli.render.screen import console, print_json, starting

if TYPE_CHECKING:
    from studies.benchmarks.search_figures import Figures


def add_to(bench: typer.Typer) -> None:
    """Add `search` to `bench`."""
    add_command(
        bench,
        "search",
        search,
        "nas bench search --seeds 5 --workers 2",
        "nas bench search --methods gain/forecast,random/none --plot searches.png",
        "nas bench search --table all --workers-simulated 4,16 --until 0.95",
    )


def search(
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="SAMPLER/STOPPING,...",
            help="Methods, such as gain/forecast,random/none. gain+pool: candidates as in large spaces.",
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|FOLDER|NAME",
            help="Tables of trained architectures; may be repeated. all: those that come with nas. "
            "Default: mixers.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=MOST, help="Replays per method.")] = 20,
    workers_simulated: Annotated[
        str, typer.Option(metavar="COUNT,...", help="Simulated workers per search.")
    ] = "4",
    rungs: Annotated[
        str, typer.Option(metavar="SHARE,...", help="Fractions of a training run, increasing to 1.")
    ] = "0.15,1",
    until: Annotated[
        float,
        typer.Option(
            parser=number(0, 1), metavar="SHARE", help="End a replay at this fraction of the hypervolume."
        ),
    ] = 0.99,
    to_end: Annotated[
        bool,
        typer.Option("--to-end", help="Replay until the space is exhausted; shows what is lost for good."),
    ] = False,
    trials: Annotated[int | None, typer.Option(min=1, max=MOST, help="Maximum trials per replay.")] = None,
    rival: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="Searches of another scheduler, as written by studies.replay.moasha."
        ),
    ] = None,
    processes: Annotated[int, typer.Option("--workers", min=1, max=MOST, help="Parallel replays.")] = 1,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay searches on a finished table with the study's own code: tokens needed to reach its true front.

    Everything but the milliseconds is deterministic.
    """
    from nas_cli.benchmarks.searches import print_overview
    from studies.benchmarks.search import (
        COMPARED,
        METHODS,
        OVERVIEW,
        SearchPlan,
        check_plan,
        read_rival,
        replay_all,
    )
    from studies.benchmarks.search_figures import best_unstopped, figures
    from studies.replay.table import find_tables
    from studies.reporting.drawing import check_plot_path
    from studies.training.cores import check_workers

    check_workers(processes)
    if plot is not None:
        check_plot_path(plot)
    tables, counts = find_tables(table or ["mixers"]), _counts(workers_simulated)
    several = len(tables) * len(counts) > 1
    plans = [
        SearchPlan(
            table=file,
            methods=_methods(methods) if methods is not None else OVERVIEW if several else METHODS,
            seeds=seeds,
            workers=count,
            rungs=_numbers(rungs),
            until=math.inf if to_end else until,
            trials=trials,
        )
        for file in tables
        for count in counts
    ]
    opened = [check_plan(plan) for plan in plans]
    if several:
        refuse_without_effect(
            {"--plot": plot, "--rival": rival}, "several tables or worker counts", "give one"
        )
    plan, known = plans[0], opened[0]
    others = [
        run
        for name, file in map(_rival, rival or [])
        for run in read_rival(name, file, known, plan.until)
    ]  # fmt: skip
    with starting("reading the table") as say:
        replayed = replay_all(plans, processes, say)
    if several:
        print_overview(plans, opened, replayed, as_json=as_json)
        return
    runs = [*replayed[0], *others]
    rows = figures(runs)
    best = best_unstopped({row.method: row.tokens for row in rows})
    about = f"{len(known.entries)} architectures, {plan.workers} workers, rungs at {rungs}"
    if plot is not None:
        from studies.benchmarks.search_plot import plot_searches

        plot_searches(f"{about}, {seeds} seeds", runs, plot)
    if as_json:
        print_json({
            "table": {"architectures": len(known.entries), "front": len(known.front), **known.about},
            "rungs": plan.rungs, "workers": plan.workers, "until": None if to_end else until,
            "against": best, "methods": [row.to_dict() for row in rows],
        })  # fmt: skip
        return
    console.print(f"{about}, medians of {seeds} seeds (quartiles)\n")
    console.print(_table(rows))
    console.print(
        "\ntokens to reach a fraction of the table's hypervolume, in full training runs"
        + (f"; ratio: tokens to {COMPARED:.0%}, relative to {best}" if best is not None else "")
        + "; twice: architectures trained more than once; ms: medians of all trials, of the last tenth"
    )
    if plot is not None:
        console.print(f"\nwrote {plot}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"'{text}' must be numbers such as 0.15,1", param_hint="'--rungs'") from None


def _methods(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))


def _counts(text: str) -> list[int]:
    try:
        counts = [int(item) for item in dict.fromkeys(text.split(","))]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1 or max(counts) > MOST:
        rule = f"'{text}' must be positive whole numbers such as 4,16"
        raise typer.BadParameter(rule, param_hint="'--workers-simulated'")
    return counts


def _rival(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise typer.BadParameter(f"'{text}' must have the form moasha=FILE.jsonl", param_hint="'--rival'")
    return name, Path(file)


def _table(rows: list[Figures]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    shares = list(rows[0].tokens)
    lost = any(row.lost is not None for row in rows)
    names = (
        "method", *(f"to {share:.0%}" for share in shares), "ratio", *(["front lost"] if lost else []),
        "twice", "ms/trial",
    )  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.method,
            *(_tokens(row.tokens[share]) for share in shares),
            "" if row.ratio is None else "never" if math.isinf(row.ratio) else f"{row.ratio:.2f}×",
            *(["" if row.lost is None else f"{row.lost:.1%}"] if lost else []),
            str(row.duplicates),
            "" if row.ms is None else f"{row.ms:.0f}, {row.last_ms:.0f}",
        )
    return table


def _tokens(quartiles: tuple[float, float, float]) -> str:
    low, middle, high = ("never" if math.isinf(value) else f"{value:.1f}" for value in quartiles)
    return middle if low == middle == high else f"{middle} ({low}-{high})"
