"""Plot of how far searched architectures are ahead of a study's baselines."""

from __future__ import annotations

from math import nan

from studies.analysis.standings import Standings
from studies.analysis.versus_baselines import BEATEN, NOT_BEATEN, Duel, VersusBaselines
from studies.reporting.figure import BLUE, GREY, ORANGE, Axis, Figure, Marker, Panel, Series
from studies.study import Study
from studies.study.trial_record import TrialRecord

MOST_ROWS = 24
_KINDS: dict[str, tuple[str, Marker]] = {
    BEATEN: (BLUE, "dot"), NOT_BEATEN: (ORANGE, "square"),
    "ahead": (BLUE, "ring"), "behind": (ORANGE, "ring"),
}  # fmt: skip


def baselines_figure(study: Study, records: list[TrialRecord], standings: Standings) -> Figure | None:
    """Return the lead of the best rival over each baseline; None without a baseline that has a rival.

    Filled points are settled, open ones not told apart yet; bars are the intervals of the leads.
    """
    comparison = VersusBaselines(records, standings, study.space)
    duels = [duel for duel in comparison.duels if duel.ahead is not None][:MOST_ROWS]
    if not duels:
        return None
    form = comparison.objective.metric.format
    series = [Series("", [0.0, 0.0], [-0.5, len(duels) - 0.5], GREY, curve="straight", dash="dash")]
    for kind, (colour, marker) in _KINDS.items():
        rows = [(row, duel) for row, duel in enumerate(duels) if _kind(duel) == kind]
        if not rows:
            continue
        ahead = [duel.ahead or 0.0 for _, duel in rows]
        halves = [nan if duel.half is None else duel.half for _, duel in rows]
        rivals = [standings.names.name(duel.rival) for _, duel in rows if duel.rival is not None]
        series.append(
            Series(
                kind if kind in (BEATEN, NOT_BEATEN) else f"{kind}, not told apart yet",
                ahead, [float(row) for row, _ in rows], colour, marker, 6,
                x_error=None if all(half != half for half in halves) else (halves, halves),
                labels=rivals,
                hover=[
                    f"{standings.names.name(duel.baseline)}: {duel.verdict}<br>{rival} is "
                    f"{form(abs(lead))} {'ahead' if lead > 0 else 'behind'}"
                    for (_, duel), rival, lead in zip(rows, rivals, ahead, strict=True)
                ],
            )
        )  # fmt: skip
    unit = f"{comparison.objective.name}, {comparison.objective.metric.unit}"
    across = Axis(
        f"lead of the best rival at no higher cost ({unit})", ".3~g", ticks=lambda value: f"{value:.3g}"
    )
    up = Axis("", names=[standings.names.name(duel.baseline) for duel in duels])
    title = f"{study.name}: lead over the baselines"
    return Figure(title, [Panel(across, up, series)], width=5.2, height=1.4 + 0.3 * len(duels))


def _kind(duel: Duel) -> str:
    if duel.outcome in (BEATEN, NOT_BEATEN):
        return duel.outcome
    return "ahead" if (duel.ahead or 0.0) > 0 else "behind"
