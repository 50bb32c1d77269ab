"""`nas audit`: trains some of a study's architectures longer and reports how well the proxy ranks them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from nas_cli.help import add_command
from nas_cli.imports import load_torch
from nas_cli.opening import open_study
from nas_cli.options import (
    MOST,
    DeviceOption,
    JsonOption,
    PlotOption,
    RunsOption,
    StorageOption,
    StudyArgument,
    TimeoutOption,
    WorkersOption,
    refuse_without_effect,
)
from nas_cli.render.counts import tokens
from nas_cli.render.fitted import Column, fitted_table
from nas_cli.render.screen import console, duration, notes, print_json, print_warnings, say_resumable
from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from studies.audit.plan import Audit
    from studies.audit.report import Report
    from studies.audit.runs import Done
    from studies.stats.rank_correlation import Estimate


# epochs of a long run: after 3.8, 24 models of 30 M parameters overfitted a text by 0.5 to 1.0 nats, each
# differently; after 1.9, by 0.1 to 0.2
MOST_EPOCHS = 2.0
HEAL_TOKENS = 1_000_000


def add_to(app: typer.Typer) -> None:
    """Add `audit` to `app`."""
    add_command(
        app,
        "audit",
        audit,
        "nas audit demo --times 8 --architectures 24",
        "nas audit replacements --heal 1M --plot audit.png",
    )


def audit(
    study: StudyArgument,
    times: Annotated[
        int | None,
        typer.Option(
            min=2, max=10_000, show_default="4", help="Train for this many times the proxy's tokens."
        ),
    ] = None,
    heal: Annotated[
        int | None,
        typer.Option(
            parser=tokens,
            metavar="TOKENS",
            show_default="1M",
            help="For designs of a pretrained model: heal each, and the control, on so much text.",
        ),
    ] = None,
    architectures: Annotated[
        int,
        typer.Option(
            min=2,
            max=MOST,
            help="Number of architectures: the front, and others spread over loss and parameters.",
        ),
    ] = 24,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Long runs per architecture.")] = 1,
    workers: WorkersOption = 1,
    timeout: TimeoutOption = None,
    device: DeviceOption = "auto",
    plot: PlotOption = None,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Check whether the short proxy ranks architectures as longer training does.

    For a pretrained model: whether the KL divergence of its designs ranks them as healing does.

    Finished runs are kept: the same command resumes, and several may run at once. When all runs are trained,
    or the time limit is reached, it prints the result of the finished runs.
    """
    from studies.training.cores import check_workers

    check_workers(workers)
    searched = open_study(study, runs, storage)
    load_torch()
    from studies.audit.plan import open_audit
    from studies.audit.plot import plot_audit
    from studies.audit.report import report
    from studies.reporting.drawing import check_plot_path

    if plot is not None:
        check_plot_path(plot)
    if searched.space.model is None:
        refuse_without_effect({"heal": heal}, "on architectures trained from scratch", "give --times")
        opened = open_audit(searched, times or 4, architectures)
    else:
        refuse_without_effect({"times": times}, "on designs of a pretrained model", "give --heal TOKENS")
        opened = open_audit(searched, 1, architectures, heal or HEAL_TOKENS)
    _train(opened, seeds, workers, device, timeout)
    result = report(opened)
    if plot is not None:
        plot_audit(result, plot)
    if as_json:
        print_json(result.to_dict())
        return
    _print(result)
    if plot is not None:
        console.print(f"wrote {plot}")


def _train(audit: Audit, seeds: int, workers: int, device: str, limit: float | None) -> None:
    """Train the remaining runs for at most `limit` seconds.

    Prints a line per run to stderr, and meanwhile a progress bar; without a terminal a line now and then.
    """
    import time
    from contextlib import ExitStack

    from nas_cli.render.bars import training_progress
    from studies.audit.expected import expected_seconds
    from studies.audit.plan import CONTROL
    from studies.audit.runs import helpers, train_runs
    from studies.audit.settings import long_settings
    from studies.study.trial_names import Names
    from studies.training.devices import crowding, pick_device
    from studies.training.loop import Interrupted
    from studies.workers.supervisor import worker_device

    over = math.inf if limit is None else time.monotonic() + limit

    everything = audit.runs(seeds)
    left = [run for run in everything if not run.result.exists()]
    if not left:
        return
    names = Names(audit.study.space)
    expected = duration(expected_seconds(audit, left) / workers)
    to_do = f"{len(left)} of {len(everything)}"
    if audit.heal is None:
        each = _budget(audit.study.space.proxy.seconds, long_settings(audit).tokens, audit.times)
        about = f"{to_do} runs to train, {each} each, about {expected}"
    else:
        known = (audit.folder / CONTROL).is_file()
        control = "their control is known" if known else "after the original model, their control"
        about = f"{to_do} designs to heal on {_budget(None, audit.heal)} each, {control}; "
        about += f"roughly {expected}, judged by what it took to measure them"
    notes.print(f"audit of {audit.study.name}: {about}", soft_wrap=True)
    began = time.monotonic()

    print_warnings(crowding(workers, audit.study.settings.threads, pick_device(device)))

    def print_run(done: Done) -> None:
        result = done.result
        outcome = (
            result.get("failed") or f"val_loss {result['val_loss']:.4f} in {duration(result['seconds'])}"
        )
        here = len(left) - done.left
        remaining = f", {duration((time.monotonic() - began) / here * done.left)} left" if done.left else ""
        count = f"[{len(everything) - done.left}/{len(everything)}{remaining}]"
        record = audit.study.record(result["number"])
        name = f"{names.name(record)} {names.design(record)}"
        notes.print(f"{count} {name}: {outcome}", markup=False, soft_wrap=True)

    def print_control(losses: dict[str, float | None]) -> None:
        nonlocal began
        notes.print(
            f"control: loss {losses['control']:.4f} after {losses['original']:.4f}, took "
            f"{duration(time.monotonic() - began)} with the library"
        )
        began = time.monotonic()  # designs are timed without it

    with ExitStack() as stack:
        show = stack.enter_context(training_progress("healing" if audit.heal else "training"))
        stack.enter_context(helpers(audit, seeds, min(workers, len(left)) - 1, device))
        try:
            train_runs(
                audit, seeds, worker_device(device, 0), print_run,
                on_step=lambda run, progress: show(progress),
                should_stop=lambda: time.monotonic() > over, on_control=print_control,
            )  # fmt: skip
        except Interrupted:
            count = sum(not run.result.exists() for run in everything)
            notes.print(f"time limit reached: {count} runs unfinished, run the same command to resume")
        except KeyboardInterrupt:
            say_resumable()
            raise


def _print(result: Report) -> None:
    from studies.audit.report import GOOD

    data, count = result.to_dict(), len(result.points)
    longest = max((len(point.long_losses) for point in result.points), default=0)
    if data["heal_tokens"] is None:
        runs = (
            f"proxy of {_budget(data['proxy_seconds'], data['proxy_tokens'])}, judged by "
            f"{data['proxy_loss']}, against "
            f"{_budget(data['proxy_seconds'], data['long_tokens'], data['times'])} ({data['times']} times)"
        )
    else:
        runs = (
            f"{data['proxy_loss']} before against loss after {_budget(None, data['heal_tokens'])} of healing"
        )
    seeds = f"{longest} seed{'s' if longest != 1 else ''} each"
    console.print(f"[bold]{data['study']}[/]: {count} architectures, {runs}, {seeds}", soft_wrap=True)
    if data["control"] is not None:
        healed = sorted(point.long_loss for point in result.points)
        console.print(
            f"original {data['control']['original']:.4f}, control {data['control']['control']:.4f}"
            f"{_kl(data['control'].get('control_kl'))}, healed "
            f"designs {healed[0]:.4f} to {healed[-1]:.4f} nats/token"
            if healed
            else "nothing is healed yet"
        )
    heads = ("Spearman", "Kendall tau-b", "partial Spearman", "partial tau-b", "proxy ahead by")
    columns = [
        Column("predictor", least=12, justify="left"),
        *(Column(head, rank, justify="left") for head, rank in zip(heads, (0, 1, 3, 4, 2), strict=True)),
    ]
    rows = []
    for row in result.rows:
        if count and not row.count:  # no curve has a value there
            continue
        name = row.name if row.count == count else f"{row.name} ({row.count})"
        rows.append([
            f"[bold]{escape(name)}[/]" if row is result.rows[0] else escape(name),
            *map(_interval, (row.spearman, row.kendall, row.partial_spearman, row.partial_kendall)),
            _ahead(row.ahead),
        ])  # fmt: skip
    rows.append(["[dim]random order[/]", f"[dim]{_interval(result.chance)}[/]", *[""] * 4])
    console.print(fitted_table(columns, rows))
    if not math.isnan(result.better_half.value):
        console.print(f"within the better half by the proxy: Spearman {_interval(result.better_half)}")
    for kind in result.misjudged:
        console.print(f"[yellow]{escape(str(kind))}[/]", soft_wrap=True)
    console.print(
        "[dim]partial: controlling for the number of parameters; in brackets: 90% bootstrap intervals over "
        "architectures[/]"
    )
    for number, reason in result.failed.items():
        console.print(f"[yellow]#{number} failed when trained longer: {escape(reason)}[/]")
    if result.epochs > 1:
        overfits = "; enough to overfit: more text may give another ranking"
        console.print(
            f"[yellow]the text is short: the long runs see it {result.epochs:.1f} times, the proxy "
            f"{result.epochs / data['times']:.1f} times{overfits if result.epochs > MOST_EPOCHS else ''}[/]",
            soft_wrap=True,
        )
    colour = {"Good": "green", "Bad:": "red"}.get(result.verdict[:4], "yellow")
    console.print(f"[{colour}]{escape(result.verdict)}[/]")
    console.print(f"[dim]good: the whole interval at or above {GOOD}; bad: all of it below[/]")
    for environment in result.environments:
        console.print(f"[dim]{environment['device']}, torch {environment['torch']}[/]")


def _kl(divergence: float | None) -> str:
    return "" if divergence is None else f" (KL {divergence:.4f} from the original)"


def _budget(seconds: float | None, tokens: int, times: int = 1) -> str:
    """Format the budget of a run: tokens, or the training time of a time-budgeted proxy."""
    from surgery.config.quantities import format_count

    return f"{format_count(tokens)} tokens" if seconds is None else f"{duration(times * seconds)} of training"


def _interval(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.value) else escape(str(estimate))


def _ahead(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return ""
    return "can't tell yet" if estimate.low <= 0 <= estimate.high else _interval(estimate)
