"""The proxy's warm-up: a share of the run or tokens, and rungs that lie in it."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces import SearchSpace

from .spaces import space_of


def _space(**proxy: Any) -> SearchSpace:
    sizes = {"tokens": "100k", "seq_len": 100, "batch_tokens": 1000}
    return space_of({"loop.count": {"range": [1, 2]}}, proxy={**sizes, **proxy})


@pytest.mark.parametrize(
    ("given", "warmup", "share"),
    [(0.25, 0.25, 0.25), ("25k", 25_000, 0.25), (90_000, 90_000, 0.9), (0, 0, 0)],
)
def test_a_warm_up_is_a_share_or_tokens(given: Any, warmup: float, share: float) -> None:
    proxy = _space(warmup=given).proxy
    assert proxy.warmup == warmup
    assert proxy.warmup_share == share


@pytest.mark.parametrize("warmup", [0.25, "25k"])
def test_rungs_in_the_warm_up_are_told(warmup: Any) -> None:
    shown = _space(warmup=warmup, rungs=[0.1, 0.25, 0.3, 1.0]).warnings()
    assert any(text.startswith("at 0.1 and 0.25 of a run (proxy.rungs)") for text in shown)
    assert not any("proxy.rungs" in text for text in _space(warmup=warmup, rungs=[0.3, 1.0]).warnings())
