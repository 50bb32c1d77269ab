"""An operator in a mixer of another kind: fitted where the model has a weight of its size, new elsewhere."""

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
    ("design", "new"),
    [
        # 16 channels of queries and keys, as many as the model's keys have, and 64 of values
        ({"layout": "G", "mixers": {"G": {"key_ratio": 0.5, "expand_v": 4.0, "heads": 2}}}, "qvo"),
        # 32 channels of everything, as many as the model's queries have
        ({"layout": "G", "mixers": {"G": {"key_ratio": 1.0, "expand_v": 1.0}}}, "kv"),
        ({"layout": "K", "mixers": {"K": {"keep": "qk"}}}, "k"),  # one width for q and k, without grouping
        ({"layout": "K"}, ""),  # no q, k and v at all
        ({"layout": "W", "mixers": {"W": {"window": 8}}}, ""),
        ({"layout": "S", "mixers": {"S": {"top_k": 4}}}, ""),
    ],
    ids=["G", "G wide keys", "K with q and k", "K", "W", "S"],
)
def test_only_weights_of_the_same_size_are_fitted(
    checkpoint: Callable[..., Path], design: dict[str, Any], new: str
) -> None:
    source = read_source(checkpoint("llama"))
    drawn = plan(source, {**design, "projections": [{**ALL}]})
    replaced = [name for layer in drawn.layers for name in layer.operators]
    assert [name for _, name in drawn.fitted] == [name for name in replaced if name not in new]
    fresh = {tensor.name for tensor in drawn.tensors if tensor.action == "new" and ".decoder." in tensor.name}
    assert fresh == {f"layers.{index}.mixer.{name}.decoder.weight" for index in range(4) for name in new}
    for calibration in (None, [list(range(20))]):
        model, fits = execute(source, drawn, calibration=calibration)
        assert [(fit.layer, fit.projection) for fit in fits] == list(drawn.fitted)
        assert torch.isfinite(model(torch.arange(12)[None])).all()


def test_nothing_is_fitted_where_no_size_is_right(checkpoint: Callable[..., Path]) -> None:
    source = read_source(checkpoint("llama"))
    mixers = {"G": {"key_ratio": 1.5, "heads": 2}}
    rule = {**ALL, "match": ["q", "k"]}
    drawn = plan(source, {"layout": "G", "mixers": mixers, "projections": [rule]})
    assert drawn.fitted == ()
    model, fits = execute(source, drawn, calibration=[list(range(20))])
    assert fits == ()
    assert torch.isfinite(model(torch.arange(12)[None])).all()
