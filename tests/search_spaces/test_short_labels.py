"""Labels without the names of options."""

from __future__ import annotations

from pathlib import Path

from search_spaces.catalog import load_space
from search_spaces.pretrained import ModelSection
from search_spaces.short_labels import short_labels
from tests.scored_study import MODEL

SPACE = """
search:
  layers.mixer: {choice: [keep, W: {window: 32, sinks: 4}, G: {key_ratio: 1}, G: {expand_v: 1}, none]}
  layers.ffn: {choice: [keep, dim: 64, hdpl: {match: [gate, up], blocks: 2, rank: 8}]}
objectives: {kl: min, params: min}
"""


def test_short_labels_stay_unique(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SPACE)
    space = load_space(path, ModelSection("model", "0123", MODEL))
    assert space.replacements is not None
    short = short_labels(space.replacements)
    assert short["mixer", "W window=32 sinks=4"] == "W 32 4"
    assert short["mixer", "G key_ratio=1"] == "G key_ratio=1"  # "G 1" would be two options
    assert short["mixer", "none"] == "none"
    assert short["ffn", "dim=64"] == "dim 64"
    assert short["ffn", "hdpl gate,up b2 r8"] == "hdpl gate,up b2 r8"
