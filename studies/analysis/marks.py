"""Marks of a front, the same wherever it is shown: its knee, and what was picked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from studies.analysis.overtaken import Overtaken, overtaken
from studies.analysis.pick import knee
from studies.analysis.standings import Standings
from studies.study import Study
from studies.study.picks import Pick, read_picks
from studies.study.trial_record import TrialRecord

KNEE, PICKED = "knee", "picked"


@dataclass(frozen=True)
class Marks:
    """The marks of a study's trials.

    Attributes:
        knee: number of the trial at the knee of the front; None without a front.
        picks: the newest first.
        overtaken: by trial, those picks whose place another trial has taken since.
    """

    knee: int | None
    picks: tuple[Pick, ...]
    overtaken: Mapping[int, Overtaken] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Study, standings: Standings) -> Marks:
        """Read the picks of a study; the knee is that of the standings."""
        at_knee, picks = knee(standings), tuple(read_picks(study.inner))
        judged = {pick.trial: overtaken(pick, standings) for pick in picks}
        beaten = {trial: item for trial, item in judged.items() if item is not None}
        return cls(None if at_knee is None else at_knee.number, picks, beaten)

    def since(self, pick: Pick) -> str:
        """Return what a pick was and what has its place now; empty if it is still the best."""
        return self.overtaken[pick.trial].text if pick.trial in self.overtaken else ""

    def pick_to_dict(self, pick: Pick) -> dict[str, Any]:
        """Return a pick for `--json`, with the number of the trial that has its place now."""
        by = self.overtaken[pick.trial].by.number if pick.trial in self.overtaken else None
        return {**pick.to_dict(), "overtaken_by": by}

    def pick_of(self, record: TrialRecord) -> Pick | None:
        """Return the pick of a trial; None if it was not picked."""
        return next((pick for pick in self.picks if pick.trial == record.number), None)

    def words(self, record: TrialRecord) -> list[str]:
        """Return the marks of a trial: `knee`, `picked`, both or none."""
        marked = ((KNEE, record.number == self.knee), (PICKED, self.pick_of(record) is not None))
        return [word for word, is_marked in marked if is_marked]

    def to_dict(self, record: TrialRecord) -> dict[str, bool]:
        """Return the marks of a trial for `--json`."""
        words = self.words(record)
        return {KNEE: KNEE in words, PICKED: PICKED in words}
