"""Scores of replacements in notes and as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.reporting.dashboard_notes import study_note, trial_note
from studies.reporting.explanation import Explainer
from studies.reporting.score_map import brief, scores_of
from tests.scored_study import make_study


@pytest.mark.parametrize(
    ("kl", "text"),
    [
        (0.0, "0"), (-1e-9, "0"), (5.2e-6, "5e-6"), (0.00028, ".0003"), (0.0018, ".0018"), (0.00996, ".010"),
        (0.0124, ".012"), (0.125, ".125"), (0.9994, ".999"), (0.9996, "1.00"), (1.254, "1.25"),
        (9.996, "10.0"), (12.5, "12.5"),
    ],
)  # fmt: skip
def test_a_score_has_at_most_three_digits(kl: float, text: str) -> None:
    assert brief(kl) == text


def test_the_note_has_the_map_as_soon_as_there_are_scores(tmp_path: Path) -> None:
    assert "| layer |" not in study_note(make_study(tmp_path / "early", scored=False))
    note = study_note(make_study(tmp_path / "runs"))
    assert "| layer | mixer W 32 4 | mixer W 8 4 | mixer none | ffn dim 64 | ffn none |" in note
    assert "| 1 F | .0020 | .015 | 1.25 | .125 | 1.25 |" in note


def test_the_note_of_a_trial_says_why_it_was_chosen(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs")
    scores, records = scores_of(study), study.records()
    assert scores is not None
    explainer = Explainer(study.space, scores)
    note = trial_note(study, records[2], explainer)
    assert "| 2 | mixer | W window=32 sinks=4 | 0.00400 | 0.00040 | 2/3 |" in note
    assert "add up to 0.3940 nats/token; the design measured 0.5910." in note
    assert "Nothing is replaced" in trial_note(study, records[0], explainer)
    assert "| layer |" not in trial_note(study, records[2])
