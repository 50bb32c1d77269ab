"""Scores of replacements in notes and as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.reporting.dashboard_notes import study_note
from studies.reporting.score_map import brief
from tests.pretrained import make_study


@pytest.mark.parametrize(
    ("kl", "text"),
    [
        (0.0, ".0000"), (0.00028, ".0003"), (0.0018, ".0018"), (0.00996, ".010"), (0.0124, ".012"),
        (0.125, ".125"), (0.9994, ".999"), (0.9996, "1.00"), (1.254, "1.25"), (9.996, "10.0"), (12.5, "12.5"),
    ],
)  # fmt: skip
def test_a_score_has_two_or_three_digits(kl: float, text: str) -> None:
    assert brief(kl) == text


def test_the_note_has_the_map_as_soon_as_there_are_scores(tmp_path: Path) -> None:
    assert "| layer |" not in study_note(make_study(tmp_path / "early", scored=False))
    note = study_note(make_study(tmp_path / "runs"))
    assert "| layer | mixer W 32 4 | mixer W 8 4 | mixer none | ffn dim 64 | ffn none |" in note
    assert "| 1 F | .0020 | .015 | 1.25 | .125 | 1.25 |" in note
