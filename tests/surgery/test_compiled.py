"""Blocks compiled: one graph a kind, whole, and the numbers of the uncompiled ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from surgery.compiled import CompiledBlocks, block_pass
from surgery.context import DecodeCache
from surgery.model import HybridLM
from tests.models import architecture, build

MIXERS = {"W": {"window": 32}, "S": {"top_k": 4, "index_dim": 8}, "G": {"key_ratio": 0.5}}
HDPL = {"match": ["q", "gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 4, "kl": "mean"}
TOKENS = torch.randint(37, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def blocks() -> Iterator[CompiledBlocks]:
    """Traced as ever, but run by torch, not by generated code, which takes a minute. A break is an error."""
    torch._dynamo.reset()
    counters.clear()
    result = CompiledBlocks()
    result.code = torch.compile(block_pass, backend="eager", fullgraph=True)
    yield result
    torch._dynamo.reset()


def losses_and_gradients(model: HybridLM) -> list[Tensor]:
    torch.manual_seed(1)  # of the HDPL noise
    loss, auxiliary = model.train().loss(TOKENS, TOKENS)
    total: Tensor = loss + auxiliary
    return [loss, auxiliary, *torch.autograd.grad(total, list(model.parameters()), allow_unused=True)]


def check(model: HybridLM, blocks: CompiledBlocks, **tolerance: float) -> None:
    """Compiled and uncompiled passes give the same losses and gradients."""
    wanted = losses_and_gradients(model)
    plain, model.run_block = model.run_block, blocks
    result = losses_and_gradients(model)
    model.run_block = plain
    torch.testing.assert_close(result, wanted, **tolerance)


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    ("layout", "rules"), [*((letter * 4, ()) for letter in "FGDWSKRMH"), ("FFFF", (HDPL,)), ("KKKK", (HDPL,))]
)
def test_one_graph_for_all_layers_of_a_kind(layout: str, rules: Any, blocks: CompiledBlocks) -> None:
    torch.manual_seed(0)
    for loops in (1, 2):  # another model, and another pass of it, find the code of the first
        model = build(architecture(layout, mixers=MIXERS, projections=list(rules), num_layers=4, loops=loops))
        check(model, blocks)
    assert graphs() == 1


def test_kinds_of_a_mixed_model(blocks: CompiledBlocks) -> None:
    check(build(architecture("FWKF", mixers=MIXERS, num_layers=4)), blocks)
    assert graphs() == 3


def test_windows_of_the_passes_are_kinds_of_their_own(blocks: CompiledBlocks) -> None:
    """Numbers in the code, not variables of it: a window sets the shapes of what is computed."""
    model = build(architecture("FF", loops=3, windows=[8, 16, 24]))
    check(model, blocks)
    assert graphs() == 3


def test_passes_that_change_projections_are_kinds_of_their_own(blocks: CompiledBlocks) -> None:
    """The first pass has code without the changes; in the later ones' code the number may be a variable."""
    check(build(architecture("FF", loops=4, delta_rank=2)), blocks)
    assert 2 <= graphs() <= 4


def test_another_weight_of_a_loss_is_no_kind_of_its_own(blocks: CompiledBlocks) -> None:
    """A search draws a new one for every trial: it becomes a variable when it first changes."""
    for weight in (1e-3, 2e-3, 3e-3, 4e-3):
        rule = {**HDPL, "kl_weight": weight}
        check(build(architecture("FF", projections=[rule])), blocks)
    assert graphs() == 2


def test_only_training_is_compiled(blocks: CompiledBlocks) -> None:
    model = build(architecture("FW", mixers=MIXERS))
    plain = model(TOKENS)
    model.run_block = blocks
    torch.testing.assert_close(model(TOKENS), plain, rtol=0, atol=0)
    cache = DecodeCache()
    parts = [model(TOKENS[:, :30], cache=cache), model(TOKENS[:, 30:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), plain)
    with torch.no_grad():
        model.train()(TOKENS)
    assert graphs() == 0


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["F", "G", "W", "S", "K", "B", "R", "M", "H"])
def test_generated_code(layout: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = build(architecture(layout, mixers=MIXERS, projections=[HDPL]))
    with torch._inductor.config.patch(fallback_random=True):  # the noise of torch's own generator
        check(model, CompiledBlocks(), rtol=1e-4, atol=1e-4)  # other sums, other last bits
