"""`nas bench latency`: sums of block times against whole models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from nas_cli import completion
from nas_cli.help import add_command
from nas_cli.opening import open_space, open_study
from nas_cli.options import (
    MOST,
    DeviceOption,
    JsonOption,
    ModelOption,
    RunsOption,
    StorageOption,
    refuse_without_effect,
)
from nas_cli.render.counts import seed as seed_number
from nas_cli.render.screen import console, print_json, print_warnings, starting
from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from search_spaces import SearchSpace
    from studies.benchmarks.latency import Agreement, SumAndWhole
    from studies.latency.work import Setup
    from studies.study import Study
    from surgery.architecture import Architecture
    from surgery.architecture.block_times import BlockTimes

USUAL = "decode_ms@1024,prefill_ms@1024"  # where neither the command nor the space names a latency


def add_to(bench: typer.Typer) -> None:
    """Add `latency` to `bench`."""
    add_command(
        bench,
        "latency",
        latency,
        "nas bench latency smollm2",
        "nas bench latency --space tiny --metrics decode_ms@512,prefill_ms@512 --threads 1",
    )


def latency(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY",
            help="A study, by name or folder: the architectures of its front.",
            autocompletion=completion.studies,
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="SPACE",
            help="Instead of a study: random architectures of this preset or YAML file.",
            autocompletion=completion.spaces,
        ),
    ] = None,
    model: ModelOption = None,
    number: Annotated[
        int | None,
        typer.Option("--random", min=1, max=MOST, metavar="N", help="How many of the space. Default: 10."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(parser=seed_number, help="Seed of the random architectures. Default: 0.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC,...", help=f"Latencies. Default: those of the space, or {USUAL} if it has none."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, metavar="N", help="CPU threads. Default: the study's, or all cores."),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Compare latencies that are sums of block times with whole models, timed in the same way.

    `error`: the sum's, relative to the whole model. Weights are random: no checkpoint is needed.
    """
    from studies.training.devices import pick_device

    given: dict[str, object] = {"model": model, "random": number, "seed": seed}
    if study is not None and space is None:
        refuse_without_effect(given, "with a study", "give --space instead")
        timed = _of_front(open_study(study, runs, storage), threads)
    elif space is not None and study is None:
        timed = _of_space(open_space(space, model), number or 10, seed or 0, threads)
    else:
        from surgery.config.problems import Problem, UserError

        problem = Problem("STUDY", study, "is needed, or --space, but not both")
        raise UserError("no architectures to time", [problem])
    names = _metrics(metrics, timed.space)
    torch_device = pick_device(device)
    if timed.threads is not None:
        import torch

        torch.set_num_threads(timed.threads)
    from studies.latency.work import Setup

    setup = Setup(torch_device, timed.space.latency.batch)
    items = _compare(timed, names, setup)
    if as_json:
        _print_json(items, setup)
    else:
        _print(items, names, setup)


class _Timed(NamedTuple):
    """Architectures by name, their space, the block times that a study has, and the CPU threads."""

    architectures: dict[str, Architecture]
    space: SearchSpace
    known: BlockTimes | None
    threads: int | None


def _of_front(study: Study, threads: int | None) -> _Timed:
    """Return the architectures of a study's front.

    Raises:
        UserError: there are none.
    """
    from studies.study.trial_names import Names

    names = Names(study.space)
    architectures = {names.name(record): record.build() for record in study.front()}
    if not architectures:
        from surgery.config.problems import UserError

        raise UserError("the study has no trained architecture yet")
    return _Timed(architectures, study.space, study.space.times, threads or study.settings.threads)


def _of_space(space: SearchSpace, number: int, seed: int, threads: int | None) -> _Timed:
    """Return random architectures of a space."""
    from search_spaces.summary import draw

    drawn = draw(space, number, seed, feasible=False)
    return _Timed({str(index): item for index, item in enumerate(drawn, 1)}, space, None, threads)


def _compare(timed: _Timed, names: tuple[str, ...], setup: Setup) -> list[SumAndWhole]:
    """Time blocks and models, with the stage on screen."""
    from studies.benchmarks.latency import compare
    from studies.latency.machine import machine_of
    from surgery.architecture.block_times import machine_text

    known = timed.known
    if known is not None and dict(known.machine) != machine_of(setup):
        print_warnings([f"the study's block times are of {machine_text(known.machine)}: timed anew here"])
    with starting("timing") as say:
        return compare(
            timed.architectures, names, setup, known,
            lambda stage, done, total: say(f"{stage}: {done} of {total}"),
        )  # fmt: skip


def _print_json(items: list[SumAndWhole], setup: Setup) -> None:
    from studies.benchmarks.latency import agreement
    from studies.training.devices import describe

    print_json({
        "machine": describe(setup.device), "batch": setup.batch,
        "models": [item.to_dict() for item in items],
        "agreement": [item.to_dict() for item in agreement(items)],
    })  # fmt: skip


def _print(items: list[SumAndWhole], names: tuple[str, ...], setup: Setup) -> None:
    from studies.benchmarks.latency import agreement
    from studies.training.devices import describe

    about = describe(setup.device)
    console.print(
        f"{', '.join(names)}, batch {setup.batch}, {about['device']}, {about['threads']} threads, "
        f"torch {about['torch']}\n",
        soft_wrap=True,
    )
    console.print(_table(items))
    console.print()
    for item in agreement(items):
        console.print(_sentence(item), soft_wrap=True)
    if setup.device.type == "cuda" and not all(item.graphs for item in items):
        console.print("[yellow]without CUDA graphs, in part or whole: some blocks can't be captured[/]")


def _metrics(text: str | None, space: SearchSpace) -> tuple[str, ...]:
    """Return the latencies to compare.

    Raises:
        UserError: lists names that are none.
    """
    from surgery.architecture.metrics import parse_metric
    from surgery.config.problems import Problems

    if text is None and space.timed_metrics:
        return space.timed_metrics
    problems = Problems()
    names = tuple(dict.fromkeys(name.strip() for name in (text or USUAL).split(",")))
    for name in names:
        try:
            if not parse_metric(name)[0].timed:
                problems.add("--metrics", name, "is no latency", "such as decode_ms@4096")
        except ValueError as error:
            problems.add("--metrics", name, str(error))
    problems.raise_if_any("can't compare these")
    return names


def _table(items: list[SumAndWhole]) -> Table:
    from surgery.architecture.metrics import METRICS

    shown = METRICS["decode_ms"].format
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "architecture", "metric", "sum ms", "whole ms", "±", "error"):
        side = "left" if name in ("model", "architecture", "metric") else "right"
        table.add_column(
            name, justify=side, no_wrap=name != "architecture", overflow="fold"  # type: ignore[arg-type]
        )  # fmt: skip
    for item in items:
        table.add_row(
            escape(item.name), escape(item.line), item.metric, shown(item.sum_ms), shown(item.whole_ms),
            f"{item.spread / 2:.0%}", f"{item.error:+.1%}",
        )  # fmt: skip
    return table


def _sentence(item: Agreement) -> str:
    order = "" if item.tau != item.tau else f"; rank correlation (Kendall's τ) {item.tau:.2f}"
    return (
        f"{item.metric}: the sum is off by {item.error:.1%} on average, {item.largest:.1%} at most; whole "
        f"models take {item.factor:.3f} times the sum, which leaves {item.scaled_error:.1%}{order}"
    )
