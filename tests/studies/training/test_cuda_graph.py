"""Recorded training steps against the same steps launched kernel by kernel."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from studies.training import step as module
from studies.training.devices import pick_device
from studies.training.settings import TrainSettings
from studies.training.step import TrainStep
from surgery.architecture import Architecture
from surgery.model import HybridLM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
SETTINGS = TrainSettings(tokens=8 * 512, seq_len=128, batch_tokens=512)
BACKBONE = {"vocab_size": 256, "dim": 64, "num_layers": 2, "num_heads": 2, "ffn_dim": 96}
HDPL = {"match": ["q", "k", "v", "gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 16, "kl": "mean"}


def trained(
    layout: str, given: dict[str, Any], captured: bool, settings: TrainSettings = SETTINGS
) -> tuple[list[float], TrainStep]:
    """(losses of eight steps, the train step after them)."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = HybridLM(Architecture.from_dict({"backbone": BACKBONE, "layout": layout, **given}))
    train_step = TrainStep(model.to(device).train(), settings, device)
    if not captured:
        train_step.uncaptured = -100
    generator = torch.Generator().manual_seed(1)
    losses = []
    for step in range(1, 9):
        rows = torch.randint(256, (4, 129), generator=generator).to(device)
        train_step.step(step, rows[:, :-1], rows[:, 1:])
        losses += train_step.check(step)
    return losses, train_step


@pytest.mark.parametrize("projections", [[], [HDPL]], ids=["dense", "hdpl"])
@pytest.mark.parametrize("layout", ["FF", "GG", "WW", "SS", "KK"])
def test_captured_steps_are_the_same_steps(layout: str, projections: list[dict[str, Any]]) -> None:
    """Noise of HDPL included: losses and gradient norms agree step by step."""
    given = {"projections": projections, "loop": {"count": 2}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a failed capture warns
        mine, train_step = trained(layout, given, captured=True)
    assert train_step.captured is not None
    theirs, plain = trained(layout, given, captured=False)
    assert plain.captured is None
    assert mine == pytest.approx(theirs, rel=2e-3)


@pytest.mark.parametrize("projections", [[], [HDPL]], ids=["dense", "hdpl"])
def test_muon_is_captured_too(projections: list[dict[str, Any]]) -> None:
    """A captured step reads the learning rate of the schedule, which changes with every step."""
    given = {"projections": projections}
    settings = replace(SETTINGS, optimizer="muon")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a failed capture warns
        mine, train_step = trained("FG", given, True, settings)
    assert train_step.captured is not None
    theirs, _ = trained("FG", given, False, settings)
    assert mine == pytest.approx(theirs, rel=5e-3)


def test_steps_that_wait_for_the_device_continue_uncaptured(monkeypatch: pytest.MonkeyPatch) -> None:
    plainly = TrainStep._accumulate

    def waits(self: TrainStep, inputs: torch.Tensor, targets: torch.Tensor, size: int) -> Any:
        assert inputs.sum().item() >= 0
        return plainly(self, inputs, targets, size)

    noisy = {"projections": [HDPL]}  # random numbers advance too
    wanted, _ = trained("FF", noisy, captured=False)
    monkeypatch.setattr(module.TrainStep, "_accumulate", waits)
    with pytest.warns(UserWarning, match="kernel by kernel"):
        result, train_step = trained("FF", noisy, captured=True)
    assert train_step.captured is None
    assert result == pytest.approx(wanted, rel=2e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_the_device_asked_for_is_the_one_that_kernels_run_on() -> None:
    try:
        device = pick_device("cuda:1")
        model = HybridLM(
            Architecture.from_dict({"backbone": BACKBONE, "layout": "GK", "projections": [HDPL]})
        )
        train_step = TrainStep(model.to(device).train(), SETTINGS, device)
        rows = torch.randint(256, (4, 129), device=device)
        for step in range(1, 5):
            train_step.step(step, rows[:, :-1], rows[:, 1:])
        assert train_step.captured is not None
    finally:
        torch.cuda.set_device(0)
