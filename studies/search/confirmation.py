"""Confirmation of what was chosen, by runs that had no part in the choice.

An architecture is the best of many partly because its runs were lucky, so that the interval of their mean is
too good, also after replicates: they too decide which one is best (the winner's curse). A few more runs are
kept apart. No choice looks at them, and so the interval of their mean holds for what was chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from studies.analysis.marks import Marks
from studies.analysis.standings import Standings
from studies.study.trial_record import REPEAT_RUNNING, REPEAT_WAITING, TrialRecord

CONFIRMING = 3  # runs that confirm an architecture


def chosen(standings: Standings, marks: Marks) -> list[int]:
    """Return the numbers of what is confirmed: the best in each measured objective, the knee, the picks."""
    numbers = [row.record.number for row in standings.best]
    numbers += [] if marks.knee is None else [marks.knee]
    trained = {row.record.number for row in standings.rows}
    numbers += [pick.trial for pick in marks.picks if pick.trial in trained]
    return list(dict.fromkeys(numbers))


def next_confirmation(
    records: Sequence[TrialRecord], wanted: Collection[int], most: int, room: int | None = None
) -> TrialRecord | None:
    """Return what to confirm by one more run; None if all are confirmed, or the choice may change.

    Args:
        records: all trials.
        wanted: numbers of what was chosen.
        most: runs of an architecture that decide about the front; no more than these confirm it.
        room: all runs of an architecture that are possible; None: any number.
    """
    repeats = [record for record in records if record.repeat_of is not None]
    if any(record.state in (REPEAT_RUNNING, REPEAT_WAITING) and not record.confirms for record in repeats):
        return None
    begun = Counter(record.repeat_of for record in repeats if record.confirms)
    total = Counter(record.repeat_of for record in repeats)
    left = [
        number
        for number in wanted
        if begun[number] < min(CONFIRMING, most) and (room is None or 1 + total[number] < room)
    ]
    return records[min(left, key=lambda number: begun[number])] if left else None
