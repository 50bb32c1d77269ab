"""The number format of a CPU's matrix products: float32 unless asked, and bfloat16 learns as much."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from studies.data import TokenData
from studies.training.devices import autocast
from studies.training.loop import train
from studies.training.settings import TrainSettings
from surgery.model import HybridLM
from tests.models import architecture

CPU = torch.device("cpu")
HDPL = {"match": ["gate", "down"], "operator": "hdpl", "blocks": 2, "rank": 4, "kl": "mean"}
SETTINGS = TrainSettings(tokens=6144, seq_len=32, batch_tokens=256, lr=1e-2, eval_tokens=512)


def test_products_are_of_that_format() -> None:
    left = torch.randn(4, 8)
    with autocast(CPU):
        assert (left @ left.t()).dtype == torch.float32
    with autocast(CPU, "bfloat16"):
        assert (left @ left.t()).dtype == torch.bfloat16


@pytest.mark.parametrize("layout", ["F", "W", "G", "D", "S", "K", "B"])
def test_training_learns_as_much(layout: str, tokens: TokenData) -> None:
    """Within seed noise of float32, and not the same."""
    model = architecture(layout, projections=[HDPL], vocab_size=512)
    losses = []
    for name in ("float32", "bfloat16"):
        torch.manual_seed(0)
        result = train(HybridLM(model), tokens, replace(SETTINGS, cpu_precision=name), seed=0, device=CPU)
        losses.append(result.val_loss)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
    assert losses[1] < 6.15  # from 6.24, that is ln 512
