"""`nas refine`: retrains front and near-front architectures with new seeds until the front is settled."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from nas_cli.help import add_command
from nas_cli.imports import load_torch
from nas_cli.opening import open_study
from nas_cli.options import (
    MOST,
    DeviceOption,
    EachOption,
    RunsOption,
    StorageOption,
    StudyArgument,
    TimeoutOption,
    WorkersOption,
)
from nas_cli.render.counts import LanesOption
from nas_cli.render.screen import console, duration, notes, print_warnings, speed
from studies.files.defaults import DEFAULT_EACH, DEFAULT_RUNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from nas_cli.render.live import View
    from studies.analysis.standings import Standings
    from studies.study import Study
    from studies.study.trial_record import TrialRecord
    from studies.workers.progress import Snapshot
    from studies.workers.supervisor import Supervisor


def add_to(app: typer.Typer) -> None:
    """Add `refine` to `app`."""
    add_command(
        app,
        "refine",
        refine,
        "nas refine demo --timeout 1h",
        "nas refine demo --runs 10 --workers 2",
    )


def refine(
    study: StudyArgument,
    runs: Annotated[
        int | None,
        typer.Option("--runs", min=1, max=MOST, help="Maximum repeats in this run. Default: until settled."),
    ] = None,
    each: EachOption = DEFAULT_EACH,
    timeout: TimeoutOption = None,
    workers: WorkersOption = 1,
    lanes: LanesOption = 1,
    device: DeviceOption = "auto",
    folder: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Retrain architectures on and near the front with new seeds, until the front is settled.

    Then the best, the knee and the picks are confirmed by runs that have no part in any choice, and the
    designs to beat are retrained with their rivals, until it is clear who is better.

    Designs of a pretrained model are measured on other stretches of the held-out text instead.

    What is undecided after --each runs stays undecided. After Ctrl-C the same command resumes.
    """
    from studies.training.cores import check_workers

    check_workers(workers)
    opened = open_study(study, folder, storage)
    load_torch()
    from nas_cli.render.live import watch
    from studies.analysis.standings import Standings
    from studies.reporting.annotator import annotating
    from studies.search.refinement import is_alone, limited_by_text
    from studies.training.devices import crowding, pick_device
    from studies.workers.latency import foreign_times
    from studies.workers.repeats import most_runs
    from studies.workers.supervisor import Supervisor
    from surgery.config.problems import Problem, UserError

    opened.join()
    print_warnings(crowding(workers, opened.settings.threads, pick_device(device)))
    print_warnings(foreign_times(opened, pick_device(device)))
    before = Standings.of(opened)
    if not before.rows:
        raise UserError("the study has no trained architecture yet")
    possible = most_runs(opened, each)
    if possible == 1:
        hint = "start another study with more text, or with a smaller library.eval_tokens"
        problem = Problem("held-out text", None, limited_by_text(possible), hint)
        raise UserError("nothing can be measured again", [problem])
    if runs is None and is_alone(before):
        rule = "has a single one: there is no other to tell it from, and nothing to decide"
        hint = "a search with a larger --trials trains more; --runs N repeats this one anyway"
        what = "trained architecture" if opened.space.model is None else "measured design"
        raise UserError("nothing to refine", [Problem(f"{what}s of {opened.name}", None, rule, hint)])
    if possible < each:
        print_warnings([limited_by_text(possible)])
    supervisor = Supervisor(
        opened,
        workers=workers,
        lanes=lanes or None,
        target=None,
        device=device,
        timeout=timeout,
        refine=possible,
    )
    if runs is not None:
        supervisor.target = supervisor.trained_before + runs
    known = supervisor.trained_before
    what = "architectures" if opened.space.model is None else "designs"
    header = Text.assemble(
        "study ",
        (opened.name, "bold"),
        f": {len(before.front)} of {len(before.rows)} {what} are on the "
        f"front, {known} repeat{'' if known == 1 else 's'} so far, {_open(before)}",
    )
    if not notes.quiet:
        console.print(header, soft_wrap=True)
    with annotating(opened):
        watch(supervisor, _lines, _live(supervisor, header))
        _print_end(opened, supervisor, before, possible, folder)  # before the last notes are written


def _open(standings: Standings) -> str:
    return "seed noise unknown" if standings.noise is None else f"{_count(standings)} undecided"


def _count(standings: Standings) -> str:
    return "unknown" if standings.noise is None else str(len(standings.undecided))


def _renewed(supervisor: Supervisor, snapshots: Iterable[Snapshot]) -> Iterator[tuple[Snapshot, Standings]]:
    """Yield snapshots with their standings, which are recomputed when a repeat ends."""
    from studies.analysis.standings import Standings

    known = -1
    for snapshot in snapshots:
        if snapshot.ended != known:
            known, standings = snapshot.ended, Standings.of(supervisor.study, snapshot.records)
        yield snapshot, standings


def _live(supervisor: Supervisor, header: RenderableType) -> View:
    """Return a view that redraws the front, the workers and the status in place."""
    from nas_cli.render.live import live_view, workers_table
    from nas_cli.render.tables import trial_table
    from studies.analysis.standings import Standings

    known: dict[int, Standings] = {}  # by the number of repeats that ended

    def draw(snapshot: Snapshot) -> RenderableType:
        if snapshot.ended not in known:
            known.clear()
            known[snapshot.ended] = Standings.of(supervisor.study, snapshot.records)
        standings = known[snapshot.ended]
        rows = max(3, console.height - len(snapshot.workers) - 11)
        shown = [row.record for row in standings.shown]
        table = trial_table(
            shown[:rows], supervisor.study.space, title="front", standings=standings, one_line=True
        )
        hidden = [Text(f"… and {len(shown) - rows} more", style="dim")] if len(shown) > rows else []
        wanted = f" of {supervisor.target - supervisor.trained_before}" if supervisor.target else ""
        status = Text(
            f"{snapshot.trained_here}{wanted} repeats · {_open(standings)} · "
            f"{speed(snapshot.tokens_per_s)} · {duration(snapshot.elapsed)} elapsed"
        )
        return Group(header, table, *hidden, workers_table(snapshot), status)

    return live_view(draw)


def _lines(supervisor: Supervisor, on_stopping: Callable[[], None]) -> None:
    """Print a line for each repeat that ends."""
    printed = {record.number for record in supervisor.study.records() if record.repeated}
    with closing(supervisor.watch(on_stopping)) as snapshots:
        for snapshot, standings in _renewed(supervisor, snapshots):
            for record in snapshot.records:
                if not record.repeated or record.number in printed:
                    continue
                printed.add(record.number)
                line = _line(len(printed), record, snapshot, standings)
                if not notes.quiet:
                    console.print(line, markup=False, soft_wrap=True)


def _line(count: int, record: TrialRecord, snapshot: Snapshot, standings: Standings) -> str:
    assert record.repeat_of is not None
    row = standings.standing(snapshot.records[record.repeat_of])
    design = standings.names.design(row.record)
    if record.values is None:
        return f"[{count}] {record.name} failed: {record.reason}"
    if record.confirms:
        values = ", ".join(
            f"{item.name}={item.metric.format(value)}"
            for item, value in zip(standings.objectives, record.values, strict=True)
            if item.measured
        )
        return f"[{count}] {record.name} {design} {values}, confirms it; {_open(standings)}"
    results = [
        f"{item.name}={item.metric.format(value)}, mean of {row.runs} {item.metric.format(mean)} "
        f"±{item.metric.format(half)}"
        for item, value, mean, half in zip(
            standings.objectives, record.values, row.record.values or (), row.half, strict=True
        )
        if half is not None
    ]
    probability = "" if row.p_front is None else f", P(front) {row.p_front:.2f}"
    return f"[{count}] {record.name} {design} {'; '.join(results)}{probability}; {_open(standings)}"


def _print_end(study: Study, supervisor: Supervisor, before: Standings, each: int, folder: Path) -> None:
    from nas_cli.render.live import exit_if_died, report_failures
    from nas_cli.render.tables import trial_table
    from nas_cli.render.verdict import print_verdict
    from studies.analysis.marks import Marks
    from studies.analysis.standings import Standings
    from studies.analysis.versus_baselines import VersusBaselines

    last = supervisor.snapshot()
    report_failures(supervisor, last)
    after = Standings.of(study, last.records)
    shown = [row.record for row in after.shown]
    title = f"front of {study.name}"
    console.print(trial_table(shown, study.space, title=title, standings=after))
    versus = VersusBaselines(last.records, after, study.space)
    print_verdict(study, last.records, after, Marks.of(study, after), versus, folder, each)
    was = {row.record.number for row in before.front}
    now = {row.record.number for row in after.front}
    moves = [
        f"{', '.join(f'#{number}' for number in sorted(numbers))} {verb} it"
        for numbers, verb in ((now - was, "joined"), (was - now, "left"))
        if numbers
    ]
    if supervisor.timed_out:
        console.print("[yellow]time limit reached[/]")
    plural = "" if last.trained_here == 1 else "s"
    change = "changed: " + ", ".join(moves) if moves else "is the same"
    console.print(
        f"{last.trained_here} repeat{plural} in {duration(last.elapsed)}; undecided before: "
        f"{_count(before)}, now: {_count(after)}; the front {change}",
        soft_wrap=True,
    )
    exit_if_died(supervisor)
