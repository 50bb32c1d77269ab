"""Statements about a front: the seed noise, what is confirmed and decided, and what more runs would tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from nas_cli.render.designs import print_summary
from nas_cli.render.screen import console
from studies.files.defaults import DEFAULT_EACH, DEFAULT_RUNS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from studies.analysis.marks import Marks
    from studies.analysis.standings import Standings
    from studies.analysis.versus_baselines import VersusBaselines
    from studies.study import Study
    from studies.study.trial_record import TrialRecord

MOST_UNDECIDED = 5  # undecided architectures listed


def print_verdict(
    study: Study, records: Sequence[TrialRecord], standings: Standings, marks: Marks,
    versus: VersusBaselines, folder: Path, each: int = DEFAULT_EACH,
) -> None:  # fmt: skip
    """Print, in a line each: seed noise, what is confirmed and decided, baselines, and what is left to do.

    Args:
        study: the study.
        records: its trials.
        standings: of these.
        marks: the knee and the picks.
        versus: comparisons with the designs to beat.
        folder: that of all studies.
        each: the most runs of one architecture.
    """
    trained = study.space.model is None  # else runs are measurements of designs, on other text each
    command = f"nas refine {study.name}" + ("" if folder == DEFAULT_RUNS else f" --dir {folder}")
    if standings.noise is None:
        print_summary(versus)
        _print(
            f"no architecture was trained twice: [bold]{command}[/] measures seed noise and adds intervals"
            if trained
            else f"no design was measured twice: [bold]{command}[/] measures them on other held-out text and "
            "adds intervals"
        )
        return
    from studies.search.confirmation import chosen
    from studies.search.refinement import left_to_do
    from studies.workers.repeats import most_runs

    most = each
    if not trained and standings.undecided:
        most = most_runs(study, each)
    left = left_to_do(records, standings, versus, chosen(standings, marks), most)
    _print(f"[dim]{_noise(standings, trained=trained)}[/]")
    _print_best(standings)
    _print(_decided(standings, most, open_=left.front))
    print_summary(versus)
    tasks = [
        text
        for is_left, text in (
            (left.front, "retrains what is undecided" if trained else "measures the undecided on other text"),
            (left.confirmation, "confirms the best by runs that have no part in the choice"),
            (left.designs, "runs the closest baselines and their rivals again"),
        )
        if is_left
    ]
    if tasks:
        _print(f"next: [bold]{command}[/] {', '.join(tasks)}")


def _noise(standings: Standings, *, trained: bool) -> str:
    """Return what ± means, the noise of a run, and how often its intervals held."""
    assert standings.noise is not None
    measured = [item for item in standings.objectives if item.measured]
    noise = ", ".join(
        f"{item.name} {f'{sd:.1%}' if relative else item.metric.format(sd)}"
        for item, sd, relative in zip(measured, standings.noise.sd, standings.relative, strict=True)
    )
    one = "run" if trained else "text"
    held = ", ".join(
        f"{coverage.covered} of {coverage.held_out}" + (f" ({metric})" if len(standings.coverage) > 1 else "")
        for metric, coverage in standings.coverage.items()
        if coverage.held_out
    )
    text = f"±: 90% interval of the mean; standard deviation of a single {one}: {noise}"
    text += f" ({standings.noise.df} degrees of freedom)"
    new = "seeds" if trained else "texts"
    return text + (f"; intervals for new {new} held in {held}" if held else "")


def _print_best(standings: Standings) -> None:
    """Print what fresh runs say of the architectures shown; say so where the best has none."""
    confirmed = [
        f"{standings.names.name(row.record)} {row.confirmed.results(standings.objectives)}"
        for row in standings.shown
        if row.confirmed is not None
    ]
    if confirmed:
        _print(f"confirmed by runs that had no part in the choice: {', '.join(confirmed)}")
    if any(row.confirmed is None for row in standings.best):
        names = ", ".join(item.name for item in standings.objectives if item.measured)
        _print(f"[dim]the best {names} was also lucky: until it is confirmed, its ± is too good[/]")


def _decided(standings: Standings, each: int, *, open_: bool) -> str:
    """Return how certain the front is, and what is undecided."""
    whole = f"the whole front is right with probability {standings.p_whole:.2f}"
    undecided = standings.undecided
    if not undecided:
        return f"settled: each is on the front or off it with at least 90%; {whole}"
    listed = ", ".join(f"#{row.record.number} ({row.p_front:.2f})" for row in undecided[:MOST_UNDECIDED])
    more = len(undecided) - MOST_UNDECIDED
    verb = "undecided" if open_ else f"not told apart after {each} runs each"
    return f"{whole}; {verb}: {escape(listed)}" + (f" and {more} more" if more > 0 else "")


def _print(text: str) -> None:
    console.print(text, soft_wrap=True)
