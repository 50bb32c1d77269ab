"""Scores and costs of a choice, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from studies.selection.problem import Selection, distance, within

SELECTION = Selection(
    scores=[np.array([0.0, 0.1, 0.3]), np.array([0.0, 0.2]), np.array([0.0, np.inf])],
    costs={
        "params": [np.array([0, -10, -30]), np.array([0, -5]), np.array([0, -1000])],
        "cache": [np.array([0, 7, -2]), np.array([0, 0]), np.array([0, 0])],
    },
    base={"params": 2**60 + 100, "cache": 20},
)


def test_scores_add_up() -> None:
    assert SELECTION.score((0, 0, 0)) == 0
    assert SELECTION.score((1, 1, 0)) == pytest.approx(0.1 + 0.2)


def test_costs_are_exact_beyond_floats() -> None:
    assert SELECTION.total((1, 1, 0)) == {"params": 2**60 + 85, "cache": 27}
    assert SELECTION.keeps((1, 1, 0), {"params": (2**60 + 85, 2**60 + 85)})
    assert not SELECTION.keeps((1, 1, 0), {"params": (None, 2**60 + 84)})


def test_the_cheapest_leaves_out_what_is_never_chosen() -> None:
    assert SELECTION.cheapest("params") == 2**60 + 65
    assert SELECTION.cheapest("cache") == 18


def test_limits_and_distances() -> None:
    assert within({"a": 3}, {"a": (3, 3)})
    assert within({"a": 3}, {"a": (None, None)})
    assert not within({"a": 3}, {"a": (3.5, None)})
    assert not within({"a": 3}, {"a": (None, 2.5)})
    assert distance((0, 1, 2), (0, 2, 1)) == 2


def test_a_selection_whose_arrays_do_not_match_is_refused() -> None:
    with pytest.raises(AssertionError):
        Selection([np.zeros(2)], {"params": [np.zeros(3, dtype=np.int64)]}, {"params": 1})
