"""A batch that does not fit into memory is halved until it does, and trains as it would have whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from studies.probes.task import UNSCORED
from studies.training.errors import TrainingFailed
from studies.training.settings import TrainSettings
from studies.training.step import TrainStep
from surgery.architecture import Architecture
from surgery.model import HybridLM
from tests.models import architecture

CPU = torch.device("cpu")
SETTINGS = TrainSettings(tokens=1000, seq_len=10, batch_tokens=80, lr=1e-2)
ROWS = torch.randint(37, (8, 11), generator=torch.Generator().manual_seed(0))
INPUTS, TARGETS = ROWS[:, :-1], ROWS[:, 1:].clone()
TARGETS[:3, 2:] = UNSCORED  # the halves count different numbers of tokens
SPARSE = {"S": {"top_k": 3, "index_dim": 8}}


def train_step(arch: Architecture, *hooks: Callable[[nn.Module, Any, Any], None]) -> TrainStep:
    torch.manual_seed(0)
    model = HybridLM(arch).train()
    for hook in hooks:
        model.layers[1].register_forward_hook(hook)
    return TrainStep(model, SETTINGS, CPU)


def at_most(sequences: int) -> Callable[[nn.Module, Any, Any], None]:
    """A memory that holds so many sequences."""

    def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
        if len(output) > sequences:
            raise torch.OutOfMemoryError("no memory left")

    return hook


def steps(run: TrainStep, count: int = 3) -> list[tuple[float, float, float]]:
    result = []
    for number in range(1, count + 1):
        run.step(number, INPUTS, TARGETS)
        result.append((run.loss.item(), run.auxiliary.item(), run.norm.item()))
    return result


@pytest.mark.parametrize(("room", "piece"), [(7, 4), (3, 2), (1, 1)])
@pytest.mark.parametrize("mixers", ["FF", "SG"])
def test_pieces_train_as_the_whole(room: int, piece: int, mixers: str) -> None:
    """Losses, auxiliary terms and gradients are means over the batch, however it is cut."""
    whole, pieces = train_step(architecture(mixers, mixers=SPARSE)), None
    wanted = steps(whole)
    pieces = train_step(architecture(mixers, mixers=SPARSE), at_most(room))
    for result, expected in zip(steps(pieces), wanted, strict=True):
        assert result == pytest.approx(expected, rel=2e-4)
    assert pieces.micro_batch == piece
    if "S" in mixers:
        assert wanted[0][1] > 0


def test_a_failed_try_leaves_no_trace() -> None:
    """Weights, random numbers and gradients are as if the batch had been cut from the start."""
    noisy = architecture(projections=[{"match": ["q", "up"], "operator": "hdpl", "blocks": 2, "rank": 4}])
    cut = train_step(noisy)
    cut.micro_batch = 2
    torch.manual_seed(5)
    wanted = steps(cut)
    found_out = train_step(noisy, at_most(2))
    torch.manual_seed(5)
    assert steps(found_out) == wanted
    for ours, theirs in zip(found_out.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_it_is_found_once() -> None:
    sizes: list[int] = []
    run = train_step(architecture(), lambda module, arguments, output: sizes.append(len(output)), at_most(2))
    steps(run, 2)
    assert sizes == [8, 4, *[2] * 4, *[2] * 4]


def test_not_even_one_sequence() -> None:
    with pytest.raises(TrainingFailed, match="a single sequence does not fit into memory: no memory left"):
        steps(train_step(architecture(), at_most(0)))
