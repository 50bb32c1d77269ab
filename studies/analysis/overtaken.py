"""Picks that a study has something better for by now: they were the best when they were picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.objectives import Objective
from studies.analysis.limits import stored_limits
from studies.analysis.standings import Standing, Standings
from studies.stats.pareto import ideal_distances
from studies.study.picks import Pick
from studies.study.trial_record import TrialRecord


@dataclass(frozen=True)
class Overtaken:
    """A pick whose place another trial has taken.

    Attributes:
        by: the trial that would be picked now.
        text: what the pick was, what has its place, and by how much, such as `then the best kl; now #31 is:
            0.1000 against 0.1500`.
    """

    by: TrialRecord
    text: str


def overtaken(pick: Pick, standings: Standings) -> Overtaken | None:
    """Return what would be picked by the same criterion now; None if that is still the pick.

    A pick that was asked for by its number has no criterion.
    """
    own = next((row for row in standings.rows if row.record.number == pick.trial), None)
    if pick.asked or own is None:
        return None
    limits = stored_limits(pick.limits, pick.bounds, own.record)
    if limits is None:
        return None
    rivals = [row for row in standings.front if row is own or all(item.holds(row.record) for item in limits)]
    column = next((index for index, item in enumerate(standings.objectives) if item.name == pick.best), None)
    if pick.best is not None and column is None:
        return None
    now = _best(rivals, own, standings.objectives, column)
    if now is None or now is own:
        return None
    text = f"then {pick.criterion}{pick.within}; now {standings.names.name(now.record)} is"
    if column is not None and now.record.values and own.record.values:
        form = standings.objectives[column].metric.format
        text += f": {form(now.record.values[column])} against {form(own.record.values[column])}"
    if not own.on_front:
        text += ", and it is no longer on the front"
    return Overtaken(now.record, text)


def _best(
    rivals: Sequence[Standing], own: Standing, objectives: Sequence[Objective], column: int | None
) -> Standing | None:
    """Return the best of the rivals in an objective, or the knee; the pick itself where none is better."""
    if not rivals:
        return None
    if column is None:
        distances = ideal_distances([row.record.values or () for row in rivals], objectives)
        return min(zip(map(float, distances), rivals, strict=True), key=lambda item: item[0])[1]
    sign = 1 if objectives[column].direction == "min" else -1

    def score(row: Standing) -> float:
        assert row.record.values is not None
        return sign * row.record.values[column]

    best = min(rivals, key=score)
    return best if score(best) < score(own) else own
