"""`nas audit`: trains a sample of a study's architectures longer and says how well the proxy ranked them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from nas_cli.opening import open_study
from nas_cli.options import (
    DEFAULT_RUNS,
    MOST,
    DeviceOption,
    JsonOption,
    RunsOption,
    StorageOption,
    StudyArgument,
    TimeoutOption,
)
from nas_cli.render.screen import console, duration, errors, print_json, print_warnings

if TYPE_CHECKING:
    from studies.audit.plan import Audit
    from studies.audit.report import Report
    from studies.audit.runs import Done
    from studies.stats.rank_correlation import Estimate


# of a long run: read 3.8 times, a text was overfitted by 0.5 to 1.0 nats, by each of 24 models of 30 M
# parameters differently; read 1.9 times, by 0.1 to 0.2
MOST_EPOCHS = 2.0


def add_to(app: typer.Typer) -> None:
    app.command("audit")(audit)


def audit(
    study: StudyArgument,
    times: Annotated[
        int, typer.Option(min=2, max=10_000, help="Train so many times the proxy's tokens.")
    ] = 4,
    architectures: Annotated[
        int,
        typer.Option(
            min=2, max=MOST, help="How many, spread over loss and parameters, the front among them."
        ),
    ] = 24,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Long runs of each architecture.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train side by side.")] = 1,
    timeout: TimeoutOption = None,
    device: DeviceOption = "auto",
    plot: Annotated[
        Path | None, typer.Option(help="Draw it: a .png, .svg or .pdf picture, or an .html page.")
    ] = None,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Does the short proxy rank architectures as longer training would?

    Finished runs are kept: the same command goes on where it was stopped, and several of it may run at a
    time. Once nothing is left to train, or the time is up, it prints what the finished ones say.
    """
    from studies.audit.plan import open_audit
    from studies.audit.plot import plot_audit
    from studies.audit.report import report
    from studies.reporting.figure import check_plot_path
    from studies.training.devices import check_workers

    if plot is not None:
        check_plot_path(plot)
    check_workers(workers)
    opened = open_audit(open_study(study, runs, storage), times, architectures)
    _train(opened, seeds, workers, device, timeout)
    found = report(opened)
    if plot is not None:
        plot_audit(found, plot)
    if as_json:
        print_json(found.to_dict())
        return
    _print(found)
    if plot is not None:
        console.print(f"wrote {plot}")


def _train(audit: Audit, seeds: int, workers: int, device: str, limit: float | None) -> None:
    """What is left to train, for `limit` seconds at most, told on standard error: a line a run, in a terminal
    a bar too."""
    import time
    from contextlib import ExitStack

    from nas_cli.render.bars import training_progress
    from studies.audit.runs import helpers, long_settings, train_runs
    from studies.training.devices import crowding, pick_device
    from studies.training.loop import Interrupted
    from studies.workers.supervisor import worker_device

    over = math.inf if limit is None else time.monotonic() + limit

    everything = audit.runs(seeds)
    left = [run for run in everything if not run.result.exists()]
    if not left:
        return
    took = {record.number: record.seconds for record in audit.study.records()}
    expected = audit.times * sum(took[run.member.number] for run in left) / workers
    each = _budget(audit.study.space.proxy.seconds, long_settings(audit).tokens, audit.times)
    errors.print(
        f"audit of {audit.study.name}: {len(left)} of {len(everything)} runs to train, {each} each, "
        f"about {duration(expected)}",
        soft_wrap=True,
    )

    print_warnings(crowding(workers, audit.study.settings.threads, pick_device(device)))

    def told(done: Done) -> None:
        result = done.result
        outcome = (
            result.get("failed") or f"val_loss {result['val_loss']:.4f} in {duration(result['seconds'])}"
        )
        count = f"[{len(everything) - done.left}/{len(everything)}]"
        name = f"#{result['number']} {result['architecture']}"
        errors.print(f"{count} {name}: {outcome}", markup=False, soft_wrap=True)

    with ExitStack() as stack:
        bar = stack.enter_context(training_progress("audit")) if errors.is_terminal else None
        stack.enter_context(helpers(audit, seeds, min(workers, len(left)) - 1, device))
        try:
            train_runs(
                audit, seeds, worker_device(device, 0), told,
                on_step=None if bar is None else lambda run, progress: bar(progress),
                should_stop=lambda: time.monotonic() > over,
            )  # fmt: skip
        except Interrupted:
            count = sum(not run.result.exists() for run in everything)
            errors.print(f"the time is up: {count} runs are not finished, the same command goes on with them")
        except KeyboardInterrupt:
            errors.print("stopped; the same command goes on with the runs that are not finished")
            raise


def _print(found: Report) -> None:
    from studies.audit.report import GOOD, PROXY

    data, count = found.to_dict(), len(found.points)
    longest = max((len(point.long_losses) for point in found.points), default=0)
    console.print(
        f"[bold]{data['study']}[/]: {count} architectures, proxy of "
        f"{_budget(data['proxy_seconds'], data['proxy_tokens'])}, judged by {data['proxy_loss']}, against "
        f"{_budget(data['proxy_seconds'], data['long_tokens'], data['times'])} ({data['times']} times), "
        f"{longest} seed{'s' if longest != 1 else ''} each",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("predictor", no_wrap=True)
    for head in ("Spearman", "Kendall tau-b", "partial Spearman", "partial tau-b", "proxy ahead by"):
        table.add_column(head)
    for row in found.rows:
        name = row.name if row.count == count else f"{row.name} ({row.count})"
        table.add_row(
            f"[bold]{name}[/]" if row.name == PROXY else name,
            *map(_told, (row.spearman, row.kendall, row.partial_spearman, row.partial_kendall)),
            _ahead(row.ahead),
        )
    table.add_row("[dim]random order[/]", f"[dim]{_told(found.chance)}[/]")
    console.print(table)
    if not math.isnan(found.better_half.value):
        console.print(f"among the better half by the proxy: Spearman {_told(found.better_half)}")
    for kind in found.misjudged:
        console.print(f"[yellow]{escape(str(kind))}[/]", soft_wrap=True)
    console.print(
        "[dim]partial: with parameters partialled out; in brackets: 90 % intervals over architectures drawn "
        "anew[/]"
    )
    for number, reason in found.failed.items():
        console.print(f"[yellow]#{number} failed when trained longer: {escape(reason)}[/]")
    if found.epochs > 1:
        by_heart = "; so often that they learn it by heart: more text may rank otherwise"
        console.print(
            f"[yellow]the text is short: the long runs read it {found.epochs:.1f} times, the proxy "
            f"{found.epochs / data['times']:.1f} times{by_heart if found.epochs > MOST_EPOCHS else ''}[/]",
            soft_wrap=True,
        )
    colour = {"Good": "green", "Bad:": "red"}.get(found.verdict[:4], "yellow")
    console.print(f"[{colour}]{escape(found.verdict)}[/]")
    console.print(f"[dim]good: the whole interval at or above {GOOD}; bad: all of it below[/]")
    for environment in found.environments:
        console.print(f"[dim]{environment['device']}, torch {environment['torch']}[/]")


def _budget(seconds: float | None, tokens: int, times: int = 1) -> str:
    """Of a run: the tokens of all, or the time in which the proxy's steps were counted out."""
    from surgery.config.quantities import format_count

    return f"{format_count(tokens)} tokens" if seconds is None else f"{duration(times * seconds)} of training"


def _told(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.value) else escape(str(estimate))


def _ahead(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return ""
    return "can't tell yet" if estimate.low <= 0 <= estimate.high else _told(estimate)
