"""Simultaneous bounds against closed forms and tables."""

from __future__ import annotations

import numpy as np
import pytest

from studies.stats.seed_noise import t_factor
from studies.stats.simultaneous import simultaneous_factor


@pytest.mark.parametrize("df", [4, 20])
def test_a_single_difference_has_students_t(df: int) -> None:
    factor = simultaneous_factor(np.array([3, 5]), [(0, np.array([1]))], df, 0.95, 0, draws=60_000)
    assert factor == pytest.approx(t_factor(0.9, df), rel=0.03)


@pytest.mark.parametrize(("groups", "df", "table"), [(3, 10, 2.34), (5, 20, 2.43), (9, 60, 2.51)])
def test_many_against_one_are_those_of_dunnett(groups: int, df: int, table: float) -> None:
    """One-sided 5 % points of Dunnett (1955), table 1a: p + 1 groups of equal size."""
    runs = np.full(groups + 1, 4)
    factor = simultaneous_factor(runs, [(0, np.arange(1, groups + 1))], df, 0.95, 0, draws=60_000)
    assert factor == pytest.approx(table, rel=0.03)


def test_the_same_seed_gives_the_same_bounds() -> None:
    arguments = (np.array([1, 2, 3]), [(0, np.array([1, 2])), (1, np.array([2]))], 6, 0.99)
    assert simultaneous_factor(*arguments, 1) == simultaneous_factor(*arguments, 1)
    assert simultaneous_factor(*arguments, 1) != simultaneous_factor(*arguments, 2)
