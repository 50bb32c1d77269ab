"""`nas bench overhead`: the cost of a study per trial besides training, as it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nas_cli.choices import Stopping
from nas_cli.completion import samplers
from nas_cli.help import add_command
from nas_cli.options import MOST, JsonOption, SpaceArgument
from nas_cli.render.screen import console, print_json, starting
from studies.files.defaults import DEFAULT_SAMPLER, DEFAULT_STOPPING

if TYPE_CHECKING:
    from studies.benchmarks.overhead import Overhead


def add_to(bench: typer.Typer) -> None:
    """Add `overhead` to `bench`."""
    add_command(bench, "overhead", overhead, "nas bench overhead tiny --samplers gain,random --at 100,500")


def overhead(
    space: SpaceArgument = "hybrid",
    chosen_samplers: Annotated[
        str,
        typer.Option(
            "--samplers",
            metavar="SAMPLER,...",
            autocompletion=samplers,
            help="Samplers, each in its own study.",
        ),
    ] = DEFAULT_SAMPLER,
    stopping: Annotated[
        Stopping, typer.Option(help="Early-stopping rule of all studies.")
    ] = DEFAULT_STOPPING,
    at: Annotated[
        str, typer.Option(metavar="TRIALS,...", help="Trial counts to report at, increasing.")
    ] = "500",
    workers_simulated: Annotated[int, typer.Option(min=1, max=MOST, help="Simulated workers per study.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Grow studies of synthetic losses on disk: milliseconds per trial to suggest, decide and store."""
    from search_spaces import load_space
    from studies.benchmarks.overhead import OverheadPlan, measure_overhead

    chosen, counts = load_space(space), _counts(at)
    results: dict[str, list[Overhead]] = {}
    with starting("measuring") as say:
        for sampler in dict.fromkeys(chosen_samplers.split(",")):
            plan = OverheadPlan(chosen, sampler, stopping, counts, workers_simulated)
            results[sampler] = measure_overhead(plan, say)
    if as_json:
        rows = {sampler: [row.to_dict() for row in rows] for sampler, rows in results.items()}
        print_json({"space": chosen.name, "workers": workers_simulated, "samplers": rows})
        return
    console.print(f"{chosen.name}, {workers_simulated} workers, stopping {stopping}\n")
    console.print(_table(results))
    console.print("\nmilliseconds per trial, including promotions: CPU time by part, and wall time")


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(item) for item in text.split(",") if item.strip().isdecimal())
    if len(counts) != len(text.split(",")) or list(counts) != sorted({*counts} - {0}):
        raise typer.BadParameter(f"'{text}' must be increasing numbers such as 500,2000", param_hint="'--at'")
    return counts


def _table(results: dict[str, list[Overhead]]) -> Table:
    from studies.benchmarks.overhead import PARTS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("sampler", "trials", *PARTS, "cpu", "wall", "twice"):
        table.add_column(name, justify="left" if name == "sampler" else "right", no_wrap=True)
    for sampler, rows in results.items():
        for row in rows:
            spent = (*(row.cpu[part] for part in PARTS), sum(row.cpu.values()), sum(row.wall.values()))
            cells = (f"{value:.1f}" for value in spent)
            table.add_row(sampler, str(row.trials), *cells, str(row.duplicates))
    return table
