"""A pick of a study, recorded as `nas pick --trial` does it."""

from __future__ import annotations

from pathlib import Path

from studies.analysis.pick import PickRequest
from studies.analysis.standings import Standings
from studies.study import Study
from studies.study.picks import Pick, store_pick


def pick_trial(study: Study, number: int, output: Path | None = None) -> Pick:
    """Pick a trial, and return what the study has of it."""
    standings, request = Standings.of(study), PickRequest(trial=number)
    pick = request.record_of(request.choose(study, standings), standings, output)
    store_pick(study.inner, pick)
    return pick
