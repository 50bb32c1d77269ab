"""Descriptors of architectures: equal ones have equal rows, every difference shows, what is absent is NaN."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces import load_space
from search_spaces.trial import RandomTrial
from studies.surrogates.descriptors import SUMMARY, features
from surgery.architecture import Architecture
from surgery.architecture.costs import params_nonembedding
from surgery.mixers import MIXERS

BACKBONE = {
    "vocab_size": 64, "dim": 32, "num_layers": 4, "num_heads": 2, "num_kv_heads": 2, "head_dim": 16,
    "ffn_dim": 64,
}  # fmt: skip
HDPL = {"match": ["gate", "up"], "operator": "hdpl", "blocks": 4, "rank": 8, "kl": "mean", "kl_weight": 1e-3}


def described(layout: str = "F", **given: object) -> np.ndarray:
    data = {"backbone": BACKBONE, "layout": layout, **given}
    return np.array(features(Architecture.from_dict(data)))


def test_the_summary_comes_first() -> None:
    data = {"backbone": BACKBONE, "layout": "FFGG", "projections": [HDPL], "loop": {"count": 2}}
    architecture = Architecture.from_dict(data)
    shares = [{"F": 0.5, "G": 0.5}.get(letter, 0.0) for letter in MIXERS]
    result = features(architecture)
    assert result[: len(MIXERS)] == tuple(shares)
    assert result[len(MIXERS) : SUMMARY] == pytest.approx(
        (np.log(2), 2 / 7, np.log(params_nonembedding(architecture)))
    )


@pytest.mark.parametrize(
    "other",
    [
        {"layout": "WWWF"},
        {"mixers": {"W": {"window": 16}}},
        {"mixers": {"W": [{"layers": 1, "window": 16}, {"window": 8}]}},
        {"mixers": {"W": {"window": 8, "kv_heads": 1}}},
        {"ffn": [{"layers": 2, "dim": 0}]},
        {"projections": [{**HDPL, "match": ["gate", "down"]}]},
        {"projections": [{**HDPL, "rank": 16}]},
        {"projections": [{**HDPL, "blocks": 2}]},
        {"projections": [{**HDPL, "kl": "free_bits"}]},
        {"projections": [{**HDPL, "kl_weight": 1e-2}]},
        {"projections": [{**HDPL, "layers": "0-1"}]},
        {"backbone": {**BACKBONE, "ffn_dim": 128}},
    ],
)
def test_every_choice_shows(other: dict[str, object]) -> None:
    first: dict[str, object] = {"layout": "FWWW", "mixers": {"W": {"window": 8}}, "projections": [HDPL]}
    one, two = described(**first), described(**{**first, **other})  # type: ignore[arg-type]
    assert not np.array_equal(one, two, equal_nan=True)


def test_windows_of_passes_show() -> None:
    one = described(loop={"count": 2, "windows": [8, "full"]})
    two = described(loop={"count": 2, "windows": [16, "full"]})
    assert not np.array_equal(one, two, equal_nan=True)
    assert np.array_equal(np.isnan(one), np.isnan(two))


@pytest.mark.parametrize("preset", ["tiny", "hybrid"])
def test_all_of_a_space_have_the_same_columns(preset: str) -> None:
    space = load_space(preset)
    rows = np.array([features(space.sample(RandomTrial(seed))) for seed in range(50)])
    assert not np.isnan(rows[:, :SUMMARY]).any()
    assert np.isnan(rows).any(), "options of what an architecture does not have"
