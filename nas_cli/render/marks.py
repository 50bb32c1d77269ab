"""Signs of the knee and the picks, in tables and plots of the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studies.analysis.marks import KNEE, PICKED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from studies.analysis.marks import Marks
    from studies.study.trial_record import TrialRecord

SIGNS = {KNEE: "★", PICKED: "◇"}  # a star and a diamond, as in the picture of the front


def signs(record: TrialRecord, marks: Marks) -> str:
    """Return the signs of a trial, such as `★◇`; empty without one."""
    return "".join(SIGNS[word] for word in marks.words(record))


def mark_legend(records: Sequence[TrialRecord], marks: Marks) -> str:
    """Return what the signs of these trials mean, such as `★ knee, ◇ picked`; empty if there are none."""
    words = {word for record in records for word in marks.words(record)}
    return ", ".join(f"{sign} {word}" for word, sign in SIGNS.items() if word in words)
