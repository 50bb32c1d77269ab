"""The live screen of a search: front, scatter plot, workers and ETA; plain lines without a terminal."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas_cli.render.scatter import scatter
from nas_cli.render.screen import console, duration, errors, is_live, log, notes, say_resumable, speed
from nas_cli.render.tables import trial_table
from studies.study.trial_names import Names
from studies.study.trial_record import DONE, FAILED, PAUSED, RUNNING, State, TrialRecord
from studies.workers.progress import TRAINING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from studies.study import Study
    from studies.workers.progress import Snapshot
    from studies.workers.supervisor import Supervisor

FEWEST_ROWS = 3  # rows of the front that are always shown
TABLE_HEAD = 5  # lines of the front's table besides its rows, and of what it leaves out
PLOT_HEIGHT = 15


class View(Protocol):
    """A command's screen while its workers run: redrawn in place, or line by line."""

    def __call__(self, supervisor: Supervisor, on_stopping: Callable[[], None]) -> None:
        """Show the snapshots of a supervisor until the workers end."""
        ...


def watch(supervisor: Supervisor, lines: View, live: View, end: Callable[[], None] | None = None) -> None:
    """Run the workers to their end, with the live screen in a terminal and plain lines otherwise.

    Args:
        supervisor: of the workers.
        lines: prints line by line.
        live: redraws in place.
        end: prints what there is at the end, on Ctrl-C too, when this raises.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after printing how to resume.
    """

    def on_stopping() -> None:
        if not supervisor.timed_out:
            count = len(supervisor.processes)
            what = "the worker" if count == 1 else f"{count} workers"
            errors.print(f"stopping {what}; finished trials and checkpoints are kept …")

    try:
        (live if is_live() else lines)(supervisor, on_stopping)
    except KeyboardInterrupt:
        if end is not None:
            end()
        say_resumable()
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


def live_view(draw: Callable[[Snapshot], RenderableType]) -> View:
    """Return a view that redraws in place what `draw` makes of a snapshot.

    It has the terminal's alternate screen, which fits itself to every size; what was printed before is there
    again when it ends.
    """

    def view(supervisor: Supervisor, on_stopping: Callable[[], None]) -> None:
        first = Text("starting the workers …", style="dim")
        with Live(first, console=console, refresh_per_second=4, screen=True) as live:

            def leave() -> None:
                live.stop()
                on_stopping()

            with closing(supervisor.watch(leave)) as snapshots:
                for snapshot in snapshots:
                    live.update(draw(snapshot))

    return view


def show_live(supervisor: Supervisor, header: RenderableType) -> View:
    """Return the live screen of a search below its header."""
    ended = _Ended(supervisor.study)

    def draw(snapshot: Snapshot) -> RenderableType:
        for _ in ended.lines(snapshot):
            pass  # they are in the log
        return screen(supervisor.study, snapshot, header)

    return live_view(draw)


def print_lines(supervisor: Supervisor, on_stopping: Callable[[], None]) -> None:
    """Print a line for each trial that ends."""
    ended = _Ended(supervisor.study)
    stages: dict[str, str] = {}  # the last line on each worker's stage
    with closing(supervisor.watch(on_stopping)) as snapshots:
        for snapshot in snapshots:
            lines = []
            for worker in snapshot.workers:
                text = _stage(worker)
                if text and stages.get(worker["worker"], "").partition(" %")[0] != text.partition(" %")[0]:
                    stages[worker["worker"]] = text
                    lines.append(text)
            for line in [*lines, *ended.lines(snapshot)]:
                if not notes.quiet:
                    console.print(line, markup=False, soft_wrap=True)


class _Ended:
    """Lines of the trials that end while a search runs, each once; --log has them too."""

    def __init__(self, study: Study) -> None:
        self._study, self._names = study, Names(study.space)
        self._known = {(record.number, record.state) for record in study.records() if record.counted}

    def lines(self, snapshot: Snapshot) -> Iterator[str]:
        """Yield a line for each trial that was trained or paused, or failed, since the last call."""
        for record in snapshot.records:
            if record.counted and (record.number, record.state) not in self._known:
                self._known.add((record.number, record.state))
                line = _line(self._study, snapshot, record, self._names)
                log.info("%s", line)
                yield line


def _line(study: Study, snapshot: Snapshot, record: TrialRecord, names: Names) -> str:
    """Return the line of a trial that was trained or paused, or failed."""
    result = record.reason
    if record.state == PAUSED:
        result = f"val_loss {record.at_rungs(study.space.proxy.rungs)} of its tokens"
    if record.values is not None:
        result = " ".join(
            f"{objective.name}={objective.metric.format(value)}"
            for objective, value in zip(study.space.objectives, record.values, strict=True)
        )
    mark = " front" if any(record.number == other.number for other in snapshot.front) else ""
    left = f", {duration(snapshot.eta)} left" if snapshot.eta is not None else ""
    return (
        f"[{snapshot.counted}/{snapshot.target}{left}] {names.name(record)} {record.word}: "
        f"{names.design(record)} {result}{mark}"
    )


def screen(study: Study, snapshot: Snapshot, header: RenderableType | None = None) -> RenderableType:
    """Return the live screen, fitted to the terminal's height; header, workers and status have priority."""
    objectives, done = study.space.objectives, study.space.done_word
    top: list[RenderableType] = [] if header is None else [header]
    below: list[RenderableType] = [workers_table(snapshot), _status(snapshot, done)]
    spare = console.height - _height([*top, *below]) - TABLE_HEAD
    plot = len(objectives) > 1 and len(snapshot.front) > 0 and spare >= PLOT_HEIGHT + FEWEST_ROWS
    if plot:
        width, height = min(console.width, 110), PLOT_HEIGHT - 1
        top.append(scatter(snapshot.records, snapshot.front, objectives, width=width, height=height))
    rows = max(FEWEST_ROWS, spare - (PLOT_HEIGHT if plot else 0))
    title = f"front: {len(snapshot.front)} of {snapshot.count(DONE)} {done}"
    shown = snapshot.front[:rows]
    if shown:
        table = trial_table(shown, study.space, title=title, one_line=True)
        over = (
            _height([*top, table, Text(), *below]) - console.height
        )  # of headers and captions of many lines
        if over > 0:
            shown = shown[: max(FEWEST_ROWS, len(shown) - over)]
            table = trial_table(shown, study.space, title=title, one_line=True)
        top.append(table)
    else:
        top.append(Text(f"no {'architecture' if study.space.model is None else 'design'} is {done} yet"))
    if hidden := len(snapshot.front) - len(shown):
        top.append(Text(f"… and {hidden} more", style="dim"))
    return Group(*top, *below)


def _height(parts: Sequence[RenderableType]) -> int:
    return sum(len(console.render_lines(part, pad=False)) for part in parts)


def workers_table(snapshot: Snapshot) -> Table:
    """Return a table with the state of each worker."""
    table = Table.grid(padding=(0, 1))
    if not snapshot.workers:
        table.add_row(Text("the workers are starting, which takes some seconds …", style="dim"))
    for worker in snapshot.workers:
        if worker.get("state") != TRAINING:
            table.add_row(*_other_work(worker))
            continue
        table.add_row(
            f"#{worker['trial']}",
            ProgressBar(total=1.0, completed=worker["done"], width=20),
            speed(worker["tokens_per_s"]),
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
    """Return the counts by state, which add up to what --trials counts, and the pace."""
    states: list[tuple[State, str]] = [(DONE, done), (PAUSED, PAUSED), (FAILED, FAILED)]
    counts = " + ".join(
        f"[red]{count} {word}[/]" if state == FAILED else f"{count} {word}"
        for state, word in states
        if (count := snapshot.count(state)) or state == DONE
    )
    target = f" of {snapshot.target}" if snapshot.target is not None else ""
    parts = [
        f"[bold]{snapshot.counted}{target}[/]: {counts}",
        f"{snapshot.count(RUNNING)} running",
        speed(snapshot.tokens_per_s),
        f"{snapshot.trials_per_hour:.0f} trials/h",
        f"{escape(duration(snapshot.elapsed))} elapsed",
    ]
    if snapshot.target is not None:
        left = "time left not known yet" if snapshot.eta is None else f"{duration(snapshot.eta)} left"
        parts.append(left)
    return Text.from_markup(" · ".join(parts))
