"""Made-up tables have the structure that they are made of, and are what the package ships."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from studies.replay.synthetic import STRUCTURES, Structure, _curves, _ends, make
from studies.replay.table import HELD_OUT, Table, find_tables, name_of, shipped


def test_shipped_tables_are_those_that_the_code_makes() -> None:
    table, there = make("late"), Table.open(shipped()["late"])
    assert list(table.entries.values()) == list(there.entries.values())


def test_there_are_tables_to_look_at_and_others_that_are_held_out() -> None:
    names = [name_of(path) for path in find_tables(["all"])]
    assert names[0] == "mixers"
    assert set(STRUCTURES) | set(HELD_OUT) < set(names)
    for path in find_tables(["all"]):
        assert path.stat().st_size < 300_000


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_spread_is_that_of_the_parts(name: str) -> None:
    rng, structure = np.random.default_rng(1), STRUCTURES[name]
    params = [{"a": int(a), "b": int(b)} for a, b in rng.integers(5, size=(4000, 2))]
    ends = _ends(params, rng.normal(size=(4000, 2)), structure, rng)
    wanted = np.sqrt(structure.size**2 + structure.single**2 + structure.pairs**2)
    assert 0.5 * wanted < ends.std() < 1.5 * wanted  # single effects and pairs may be of one sign


def test_late_learners_cross() -> None:
    rng, ends = np.random.default_rng(0), np.random.default_rng(1).normal(4, 0.2, 500)
    shares = np.array([0.1, 0.5, 1.0])
    orders = []
    for late in (0.0, 0.5):
        curves = _curves(ends, shares, Structure("", noise=0.0, late=late, own=0.0), rng)
        assert (np.diff(curves, axis=1) < 0).all()
        np.testing.assert_allclose(curves[:, -1], ends, atol=1e-4)
        orders.append(spearmanr(curves[:, 0], ends)[0])
    assert orders[0] == pytest.approx(1, abs=1e-4)
    assert orders[1] < 0
