"""Kinds that the proxy misjudges: p against all draws there are, planted kinds found, chance not."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from studies.audit.kinds import LEVEL, misjudged
from studies.stats.rank_correlation import spearman
from surgery.architecture import Architecture

BACKBONE = {"vocab_size": 64, "dim": 32, "num_layers": 2, "num_heads": 1, "ffn_dim": 32}
HDPL = {"match": ["gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 4}


def architecture(layout: str = "F", loops: int = 1, hdpl: bool = False) -> Architecture:
    data: dict[str, Any] = {"backbone": BACKBONE, "layout": layout, "loop": {"count": loops}}
    return Architecture.from_dict(data | ({"projections": [HDPL]} if hdpl else {}))


def test_p_is_the_share_of_all_draws() -> None:
    some = [architecture(loops=2)] * 3 + [architecture()] * 9
    long = np.random.default_rng(0).normal(size=12)
    proxy = long.copy()
    proxy[:3] += 1.5
    moved = rankdata(proxy) - rankdata(long)
    means = np.array([moved[list(chosen)].mean() for chosen in combinations(range(12), 3)])
    (result,) = misjudged(some, proxy, long)
    assert result.kind == "that loop"
    assert result.count == 3
    assert result.shift == pytest.approx(moved[:3].mean())
    assert result.shift > 0
    assert result.p == pytest.approx((np.abs(means) >= abs(moved[:3].mean()) - 1e-9).mean(), abs=0.01)
    assert result.others.value == pytest.approx(float(spearman(proxy[3:], long[3:]))) == pytest.approx(1)


def test_the_smaller_side_is_named() -> None:
    some = [architecture("FG", hdpl=True)] * 10 + [architecture("FG")] * 3
    long = np.arange(13.0)
    proxy = np.concatenate([long[:10] + 20, long[10:]])
    (result,) = misjudged(some, proxy, long)
    assert (result.kind, result.count) == ("without HDPL", 3)
    assert result.shift == pytest.approx(-10)
    assert "10.0 places too high" in str(result)


def test_chance_is_seldom_taken_for_a_kind() -> None:
    """Seven kinds are looked at; at most LEVEL of all audits name one (Holm), here of 60."""
    rng = np.random.default_rng(1)
    count = 0
    for _ in range(60):
        some = [
            architecture(
                "".join(rng.choice(list("FGWSK"), 2)), int(rng.integers(1, 3)), bool(rng.integers(2))
            )
            for _ in range(24)
        ]
        long = rng.normal(size=24)
        count += bool(misjudged(some, long + rng.normal(size=24), long))
    assert count <= 60 * LEVEL + 3 * np.sqrt(60 * LEVEL)


def test_few_are_no_kind() -> None:
    some = [architecture(loops=2)] + [architecture()] * 12
    long = np.arange(13.0)
    assert misjudged(some, np.roll(long, 1), long) == []
