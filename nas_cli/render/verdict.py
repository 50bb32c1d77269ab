"""Statements about a front: the seed noise, what its intervals cover, and what is decided about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_cli.render.screen import console
from studies.files.defaults import DEFAULT_EACH, DEFAULT_RUNS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from studies.analysis.standings import Standing, Standings
    from studies.study.trial_record import TrialRecord

MOST_UNDECIDED = 5  # undecided architectures listed


def print_verdict(
    name: str, records: Sequence[TrialRecord], standings: Standings, folder: Path, each: int = DEFAULT_EACH,
    *, trained: bool = True,
) -> None:  # fmt: skip
    """Print the seed noise, the coverage of the intervals, and each undecided architecture.

    Args:
        name: of the study.
        records: its trials.
        standings: of these.
        folder: that of all studies.
        each: the most runs of one architecture.
        trained: False where runs are measurements of a pretrained model's designs, on other text each.
    """
    from studies.search.refinement import is_settled

    command = f"nas refine {name}" + ("" if folder == DEFAULT_RUNS else f" --dir {folder}")
    if standings.noise is None:
        _print(
            f"no architecture was trained twice: [bold]{command}[/] measures seed noise and adds intervals"
            if trained
            else f"no design was measured twice: [bold]{command}[/] measures them on other held-out text and "
            "adds intervals"
        )
        return
    measured = [item for item in standings.objectives if item.measured]
    noise = ", ".join(
        f"{item.name} {f'{sd:.1%}' if relative else item.metric.format(sd)}"
        for item, sd, relative in zip(measured, standings.noise.sd, standings.relative, strict=True)
    )
    one, many, what = ("run", "seeds", "architectures") if trained else ("text", "texts", "designs")
    _print(
        f"[dim]±: 90% interval of the mean over {many}; standard deviation of a single {one}: {noise} "
        f"({standings.noise.df} degrees of freedom from {standings.repeated} {what})[/]"
    )
    for metric, coverage in standings.coverage.items():
        if coverage.held_out:
            new = "seed" if trained else "text"
            _print(
                f"[dim]90% intervals for a new {new}'s {metric} covered {coverage.covered} of "
                f"{coverage.held_out} held-out repeats ({coverage.share:.0%}): this checks the noise, not "
                "the choice of the best[/]"
            )
    if any(standings.ties(row) for row in standings.shown):
        _print("[dim]can't tell from: differ by less than the 90% interval of the difference[/]")
    _print_best(standings, command)
    undecided = standings.undecided
    if not undecided:
        _print(
            "settled: every architecture is on or off the front with a probability of at least 90%, and the "
            f"whole front is right with probability {standings.p_whole:.2f}"
        )
        return
    final = is_settled(records, standings, each)
    _print(f"the whole front is right with probability {standings.p_whole:.2f}")
    verb = f"not told apart after {each} runs each" if final else "undecided"
    for row in undecided[:MOST_UNDECIDED]:
        _print(f"{verb}: {_against(row, standings)}")
    if len(undecided) > MOST_UNDECIDED:
        _print(f"… and {len(undecided) - MOST_UNDECIDED} more")
    if not final:
        verb = "retrains them with new seeds" if trained else "measures them on other held-out text"
        _print(f"[bold]{command}[/] {verb}")


def _print_best(standings: Standings, command: str) -> None:
    """Print what fresh runs say of the architectures shown; say so where the best has none."""
    for row in standings.shown:
        if row.confirmed is not None:
            result = row.confirmed.describe(standings.objectives)
            _print(f"confirmed: {standings.names.name(row.record)} {result}")
    if any(row.confirmed is None for row in standings.best):
        names = ", ".join(item.name for item in standings.objectives if item.measured)
        _print(
            f"[dim]the best {names} was also lucky, and its interval is too good; once the front is decided, "
            f"{command} confirms it by runs that have no part in the choice[/]"
        )


def _against(row: Standing, standings: Standings) -> str:
    """Return `#14 is on the front with probability 0.62: #4 costs no more and may be as good`."""
    rivals = [f"#{other.record.number}" for other in standings.rivals(row)]
    claim = f"{standings.names.name(row.record)} is on the front with probability {row.p_front:.2f}"
    if not rivals:
        return claim
    verb = "costs" if len(rivals) == 1 else "cost"
    return f"{claim}: {' and '.join(rivals)} {verb} no more and may be as good"


def _print(text: str) -> None:
    console.print(text, soft_wrap=True)
