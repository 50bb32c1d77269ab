"""What is known of a front, in sentences: the seed noise, whether it is settled, what is tied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_cli.options import DEFAULT_EACH, DEFAULT_RUNS
from nas_cli.render.screen import console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from studies.analysis.standings import Standing, Standings
    from studies.study.trial_record import TrialRecord

MOST_UNDECIDED = 5  # that are told one by one


def print_verdict(
    name: str, records: Sequence[TrialRecord], standings: Standings, folder: Path, each: int = DEFAULT_EACH
) -> None:
    """A line on the noise, one on how the intervals did, one on each place that is undecided."""
    from studies.search.refinement import is_settled

    command = f"nas refine {name}" + ("" if folder == DEFAULT_RUNS else f" --dir {folder}")
    if standings.noise is None:
        _say(f"nothing was trained twice: [bold]{command}[/] measures the noise and gives intervals")
        return
    measured = [item for item in standings.objectives if item.measured]
    noise = ", ".join(
        f"{item.name} {item.metric.format(sd)}" for item, sd in zip(measured, standings.noise.sd, strict=True)
    )
    _say(
        f"[dim]± is the 90 % interval of the mean over seeds; standard deviation of a run: {noise} "
        f"({standings.noise.df} degrees of freedom from {standings.repeated} architectures)[/]"
    )
    for metric, found in standings.coverage.items():
        if found.held_out:
            _say(
                f"[dim]90 % intervals for a fresh seed's {metric} covered {found.covered} of "
                f"{found.held_out} held-out repeats ({found.share:.0%})[/]"
            )
    undecided = standings.undecided
    if not undecided:
        _say("settled: every architecture is on the front, or off it, with at least 90 %")
        return
    final = is_settled(records, standings, each)
    verb = f"tied after {each} runs each" if final else "undecided"
    for row in undecided[:MOST_UNDECIDED]:
        _say(f"{verb}: {_against(row, standings)}")
    if len(undecided) > MOST_UNDECIDED:
        _say(f"… and {len(undecided) - MOST_UNDECIDED} more")
    if not final:
        _say(f"[bold]{command}[/] trains them again with other seeds")


def _against(row: Standing, standings: Standings) -> str:
    """`#14 (P 0.62), since #4 costs no more and may be as good`."""
    rivals = [f"#{other.record.number}" for other in standings.rivals(row)]
    told = f"{row.record.name} is on the front with probability {row.p_front:.2f}"
    if not rivals:
        return told
    verb = "costs" if len(rivals) == 1 else "cost"
    return f"{told}: {' and '.join(rivals)} {verb} no more and may be as good"


def _say(text: str) -> None:
    console.print(text, soft_wrap=True)
