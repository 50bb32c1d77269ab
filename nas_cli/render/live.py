"""The live screen of a search: front, scatter plot, workers and ETA; plain lines without a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas_cli.render.names import Names, done_word
from nas_cli.render.scatter import scatter
from nas_cli.render.screen import console, duration, errors
from nas_cli.render.tables import trial_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from studies.study import Study
    from studies.workers.progress import Snapshot
    from studies.workers.supervisor import Supervisor

FEWEST_ROWS = 3  # rows of the front that are always shown
PLOT_HEIGHT = 15


def watch(
    supervisor: Supervisor, lines: Callable[[Supervisor], None], live: Callable[[Supervisor], None]
) -> None:
    """Run the workers to their end, with the live screen in a terminal and plain lines otherwise.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after printing how to resume.
    """
    try:
        (live if console.is_terminal else lines)(supervisor)
    except KeyboardInterrupt:
        errors.print("Interrupted. Run the same command to resume.")
        raise


def report_failures(supervisor: Supervisor, last: Snapshot) -> None:
    """Report workers that ended with an error.

    Raises:
        UserError: no worker trained anything because of user errors.
    """
    if not supervisor.failed:
        return
    if last.trained_here == 0 and supervisor.refused:
        from surgery.config.problems import Problem, UserError

        problem = Problem("workers.log", None, supervisor.last_output())
        raise UserError("no worker could train anything", [problem])
    errors.print(f"[yellow]a worker failed, see {supervisor.study.folder / 'workers.log'}[/]")


def exit_if_died(supervisor: Supervisor) -> None:
    """End the command with exit code 1 if its workers died before reaching the target.

    Raises:
        typer.Exit: the workers died early.
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
    """Redraw the live screen in place until the workers end."""
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        for snapshot in supervisor.watch():
            live.update(screen(supervisor.study, snapshot))


def print_lines(supervisor: Supervisor) -> None:
    """Print a line for each trial that ends."""
    printed = {(record.number, record.state) for record in supervisor.study.records() if record.counted}
    names = Names(supervisor.study.space)
    stages: dict[str, str] = {}  # the last line on each worker's stage
    for snapshot in supervisor.watch():
        for worker in snapshot.workers:
            text = _stage(worker)
            if text and stages.get(worker["worker"], "").partition(" %")[0] != text.partition(" %")[0]:
                stages[worker["worker"]] = text
                console.print(text, markup=False, soft_wrap=True)
        on_front = {record.number for record in snapshot.front}
        for record in snapshot.records:
            if not record.counted or (record.number, record.state) in printed:
                continue
            printed.add((record.number, record.state))
            result = record.reason
            if record.state == "paused":
                result = f"val_loss {record.at_rungs(supervisor.study.space.proxy.rungs)} of its tokens"
            if record.values is not None:
                result = " ".join(
                    f"{objective.name}={objective.metric.format(value)}"
                    for objective, value in zip(supervisor.study.space.objectives, record.values, strict=True)
                )
            mark = " front" if record.number in on_front else ""
            console.print(
                f"[{snapshot.counted}/{snapshot.target}] {names.name(record)} {record.state}: "
                f"{names.design(record)} {result}{mark} eta {duration(snapshot.eta)}",
                markup=False,
                soft_wrap=True,
            )


def screen(study: Study, snapshot: Snapshot) -> RenderableType:
    """Return the live screen, fitted to the terminal's height; the front has priority."""
    objectives = study.space.objectives
    spare = console.height - len(snapshot.workers) - 9
    plot = len(objectives) > 1 and len(snapshot.front) > 0 and spare >= PLOT_HEIGHT + FEWEST_ROWS
    rows = max(FEWEST_ROWS, spare - (PLOT_HEIGHT if plot else 0))
    parts: list[RenderableType] = []
    if plot:
        width, height = min(console.width, 110), PLOT_HEIGHT - 1
        parts.append(scatter(snapshot.records, snapshot.front, objectives, width=width, height=height))
    shown = snapshot.front[:rows]
    hidden = len(snapshot.front) - len(shown)
    title = f"front: {len(snapshot.front)} of {snapshot.count('trained')} {done_word(study.space)}"
    if shown:
        parts.append(trial_table(shown, study.space, title=title, one_line=True))
    else:
        parts.append(Text("no finished trials yet"))
    if hidden:
        parts.append(Text(f"… and {hidden} more", style="dim"))
    parts += [workers_table(snapshot), _status(snapshot, done_word(study.space))]
    return Group(*parts)


def workers_table(snapshot: Snapshot) -> Table:
    """Return a table with the state of each worker."""
    table = Table.grid(padding=(0, 1))
    for worker in snapshot.workers:
        if worker.get("state") != "training":
            table.add_row(*_other_work(worker))
            continue
        table.add_row(
            f"#{worker['trial']}",
            ProgressBar(total=1.0, completed=worker["done"], width=20),
            f"{worker['tokens_per_s'] / 1e3:.1f}k tok/s",
            f"loss {worker['loss']:.3f}",
            Text(worker["line"], overflow="ellipsis", no_wrap=True),
        )
    return table


def _other_work(worker: dict[str, Any]) -> list[RenderableType]:
    """Return the cells of a worker that does not train."""
    state = Text(str(worker.get("state", "waiting")), style="dim")
    if "done" not in worker:
        return [state, "", "", "", Text(str(worker.get("line", "")), overflow="ellipsis", no_wrap=True)]
    left = f"{duration(worker['eta'])} left" if worker.get("eta") is not None else ""
    bar = ProgressBar(total=1.0, completed=worker["done"], width=20)
    return [state, bar, str(worker["line"]), left, ""]


def _stage(worker: dict[str, Any]) -> str:
    """Return a line on a stage of building a library, which changes with every tenth; empty for others."""
    if "eta" not in worker:
        return ""
    tenth = int(10 * worker["done"]) * 10
    left = f", {duration(worker['eta'])} left" if worker["eta"] is not None else ""
    return f"{worker['state']}: {tenth} % ({worker['line']}{left})"


def _status(snapshot: Snapshot, done: str) -> Text:
    target = f"/{snapshot.target}" if snapshot.target is not None else ""
    parts = [
        f"[bold]{snapshot.counted}{target}[/] {done}",
        f"{snapshot.count('running')} running",
        f"{snapshot.count('paused')} stopped early",
        f"[red]{snapshot.count('failed')} failed[/]" if snapshot.count("failed") else "0 failed",
        f"{snapshot.tokens_per_s / 1e3:.1f}k tok/s",
        f"{snapshot.trials_per_hour:.0f} trials/h",
        f"{escape(duration(snapshot.elapsed))} elapsed",
        f"{escape(duration(snapshot.eta))} left",
    ]
    return Text.from_markup(" · ".join(parts))
