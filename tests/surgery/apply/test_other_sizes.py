"""An operator in a mixer of another kind is fitted to the weights that are transplanted there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.apply.execute import execute
from surgery.apply.plan import plan
from surgery.apply.source import read_source

ALL = {"match": "all", "operator": "hdpl", "blocks": 4, "rank": 8}


@pytest.mark.parametrize(
    "design",
    [
        # 16 channels of queries and keys, as many as the model's keys have, and 64 of values
        {"layout": "G", "mixers": {"G": {"key_ratio": 0.5, "expand_v": 4.0, "heads": 2}}},
        # 32 channels of everything, as many as the model's queries have
        {"layout": "G", "mixers": {"G": {"key_ratio": 1.0, "expand_v": 1.0}}},
        {"layout": "D", "mixers": {"D": {"key_ratio": 1.0}}},
        {"layout": "K", "mixers": {"K": {"keep": "qk"}}},  # one width for q and k, without grouping
        {"layout": "K"},  # no q, k and v at all
        {"layout": "W", "mixers": {"W": {"window": 8}}},
        {"layout": "S", "mixers": {"S": {"top_k": 4}}},
        {"layout": "B", "mixers": {"B": {"block": 2, "blocks": 3, "window": 4, "compress": "mlp"}}},
    ],
    ids=["G", "G wide keys", "D", "K with q and k", "K", "W", "S", "B"],
)
def test_operators_are_fitted_to_transplanted_weights(
    checkpoint: Callable[..., Path], design: dict[str, Any]
) -> None:
    source = read_source(checkpoint("llama"))
    drawn = plan(source, {**design, "projections": [{**ALL}]})
    assert [name for _, name in drawn.fitted] == [name for layer in drawn.layers for name in layer.operators]
    for calibration in (None, [list(range(20))]):
        model, fits = execute(source, drawn, calibration=calibration)
        assert [(fit.layer, fit.projection) for fit in fits if fit.projection != "mixer"] == list(
            drawn.fitted
        )
        assert torch.isfinite(model(torch.arange(12)[None])).all()
