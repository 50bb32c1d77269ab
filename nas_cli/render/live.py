"""The screen of a running search: front, scatter, workers and time left; plain lines where it is piped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas_cli.render.scatter import scatter
from nas_cli.render.screen import console, duration, errors
from nas_cli.render.tables import trial_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from studies.study import Study
    from studies.workers.supervisor import Snapshot, Supervisor

FEWEST_ROWS = 3  # of the front that are always shown
PLOT_HEIGHT = 15


def watch(
    supervisor: Supervisor, lines: Callable[[Supervisor], None], live: Callable[[Supervisor], None]
) -> None:
    """Runs the workers to their end: with the live screen in a terminal, with plain lines elsewhere.

    Raises:
        KeyboardInterrupt: Ctrl-C, after saying that nothing is lost.
    """
    try:
        (live if console.is_terminal else lines)(supervisor)
    except KeyboardInterrupt:
        errors.print("stopped; the same command goes on from here")
        raise


def say_failures(supervisor: Supervisor, last: Snapshot) -> None:
    """Tells of workers that ended with an error.

    Raises:
        UserError: no worker trained anything, for reasons that the user can fix.
    """
    if not supervisor.failed:
        return
    if last.trained_here == 0 and supervisor.refused:
        from surgery.config.problems import Problem, UserError

        problem = Problem("workers.log", None, supervisor.last_output())
        raise UserError("no worker could train anything", [problem])
    errors.print(f"[yellow]a worker failed, see {supervisor.study.folder / 'workers.log'}[/]")


def exit_if_died(supervisor: Supervisor) -> None:
    """End the command with exit code 1 if its workers ended before what was asked for was done.

    Raises:
        typer.Exit: they did.
    """
    if supervisor.died:
        import typer

        errors.print(
            f"[red]the workers ended before the work was done[/]: {escape(supervisor.last_output())}\n"
            "Finished trials are kept; run the same command to resume.",
            soft_wrap=True,
        )
        raise typer.Exit(1)


def show_live(supervisor: Supervisor) -> None:
    """Redraws in place until the workers end."""
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        for snapshot in supervisor.watch():
            live.update(screen(supervisor.study, snapshot))


def print_lines(supervisor: Supervisor) -> None:
    """A line for each trial that ends."""
    told = {(record.number, record.state) for record in supervisor.study.records() if record.trained}
    for snapshot in supervisor.watch():
        on_front = {record.number for record in snapshot.front}
        for record in snapshot.records:
            if not record.trained or (record.number, record.state) in told:
                continue
            told.add((record.number, record.state))
            result = record.reason
            if record.state == "stopped":
                result = f"val_loss {record.at_rungs(supervisor.study.space.proxy.rungs)} of its tokens"
            if record.values is not None:
                result = " ".join(
                    f"{objective.name}={objective.metric.format(value)}"
                    for objective, value in zip(supervisor.study.space.objectives, record.values, strict=True)
                )
            mark = " front" if record.number in on_front else ""
            console.print(
                f"[{snapshot.trained}/{snapshot.target}] {record.name} {record.state}: {record.line} {result}"
                f"{mark} eta {duration(snapshot.eta)}",
                markup=False,
                soft_wrap=True,
            )


def screen(study: Study, snapshot: Snapshot) -> RenderableType:
    """Everything that fits the terminal's height, the front first."""
    objectives = study.space.objectives
    spare = console.height - len(snapshot.workers) - 8
    plot = len(objectives) > 1 and len(snapshot.front) > 0 and spare >= PLOT_HEIGHT + FEWEST_ROWS
    rows = max(FEWEST_ROWS, spare - (PLOT_HEIGHT if plot else 0))
    parts: list[RenderableType] = []
    if plot:
        width, height = min(console.width, 110), PLOT_HEIGHT - 1
        parts.append(scatter(snapshot.records, snapshot.front, objectives, width=width, height=height))
    shown = snapshot.front[:rows]
    hidden = len(snapshot.front) - len(shown)
    title = f"front: {len(snapshot.front)} of {snapshot.count('done')} trained"
    parts.append(trial_table(shown, objectives, title=title) if shown else Text("no trial has ended yet"))
    if hidden:
        parts.append(Text(f"… and {hidden} more", style="dim"))
    parts += [workers_table(snapshot), _status(snapshot)]
    return Group(*parts)


def workers_table(snapshot: Snapshot) -> Table:
    """What each worker is doing."""
    table = Table.grid(padding=(0, 1))
    for worker in snapshot.workers:
        if worker.get("state") != "training":
            table.add_row(Text("waiting", style="dim"))
            continue
        table.add_row(
            f"#{worker['trial']}",
            ProgressBar(total=1.0, completed=worker["done"], width=20),
            f"{worker['tokens_per_s'] / 1e3:.1f}k tok/s",
            f"loss {worker['loss']:.3f}",
            Text(worker["line"], overflow="ellipsis", no_wrap=True),
        )
    return table


def _status(snapshot: Snapshot) -> Text:
    target = f"/{snapshot.target}" if snapshot.target is not None else ""
    parts = [
        f"[bold]{snapshot.trained}{target}[/] trained",
        f"{snapshot.count('running')} running",
        f"{snapshot.count('stopped')} stopped early",
        f"[red]{snapshot.count('failed')} failed[/]" if snapshot.count("failed") else "0 failed",
        f"{snapshot.tokens_per_s / 1e3:.1f}k tok/s",
        f"{snapshot.trials_per_hour:.0f} trials/h",
        f"{escape(duration(snapshot.elapsed))} gone",
        f"{escape(duration(snapshot.eta))} left",
    ]
    return Text.from_markup(" · ".join(parts))
