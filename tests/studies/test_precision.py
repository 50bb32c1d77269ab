"""The number format of a CPU: the faster one is found, and training in it learns as much."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from studies import precision
from studies.data import TokenData
from studies.devices import autocast
from studies.precision import Precision, faster
from studies.recipe import TrainSettings
from studies.training import train
from surgery.model import HybridLM
from tests.models import architecture

CPU = torch.device("cpu")
HDPL = {"match": ["gate", "down"], "operator": "hdpl", "blocks": 2, "rank": 4, "kl": "mean"}
SETTINGS = TrainSettings(tokens=6144, seq_len=32, batch_tokens=256, lr=1e-2, eval_tokens=512)


class Clock:
    """Stands still but for what work takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("product", "step", "want"),
    [(0.5, 0.8, "bfloat16"), (0.5, 0.95, "float32"), (0.95, 0.5, "float32"), (8.0, 0.5, "float32")],
)
def test_the_faster_one(
    product: float, step: float, want: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of bfloat16, of a product and of a step, where float32 takes 1."""
    clock = Clock()
    monkeypatch.setattr(precision, "perf_counter", clock)
    for name, seconds in (("_products", product), ("_steps", step)):
        work = {"float32": lambda: clock.work(1.0), "bfloat16": lambda seconds=seconds: clock.work(seconds)}
        monkeypatch.setattr(precision, name, lambda *sizes, work=work: work)
    assert faster(architecture(), SETTINGS, 1) == want


def test_what_is_measured_runs_and_leaves_no_trace() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert faster(architecture(), SETTINGS, threads) in ("float32", "bfloat16")
    for run in precision._steps(architecture(), SETTINGS).values():
        run()
    torch.set_rng_state(state)
    assert torch.get_num_threads() == threads


def test_products_are_of_that_format() -> None:
    left = torch.randn(4, 8)
    with autocast(CPU):
        assert (left @ left.t()).dtype == torch.float32
    with autocast(CPU, "bfloat16"):
        assert (left @ left.t()).dtype == torch.bfloat16


@pytest.mark.parametrize("layout", ["F", "W", "G", "S", "K"])
def test_training_learns_as_much(layout: str, tokens: TokenData) -> None:
    """Within seed noise of float32, and not the same."""
    model = architecture(layout, projections=[HDPL], vocab_size=512)
    losses = []
    for name in ("float32", "bfloat16"):
        torch.manual_seed(0)
        found = train(HybridLM(model), tokens, replace(SETTINGS, cpu_precision=name), seed=0, device=CPU)
        losses.append(found.val_loss)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)
    assert losses[1] < 6.15  # from 6.24, that is ln 512
