"""Timed work is what a model does: its blocks, caches of the right length, and the same in every call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from studies.latency import work as timed_work
from studies.latency.work import Setup, model_work, part_work
from surgery.architecture import Architecture
from surgery.architecture.timed_parts import timed_parts
from surgery.context import Context
from surgery.mixers import MIXERS
from surgery.model import Block, HybridLM

CPU = torch.device("cpu")
BACKBONE = {"vocab_size": 32, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 24}
MIXING = [letter for letter, spec in MIXERS.items() if spec.mixes]


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(new tokens, tokens seen, cached tensors) of every call of a block."""
    calls: list[tuple[int, int, int]] = []
    forward = Block.forward

    def watched(self: Block, h: Any, context: Context) -> Any:
        state = context.state
        calls.append((h.shape[1], context.seen, 0 if state is None else len(state)))
        return forward(self, h, context)

    monkeypatch.setattr(Block, "forward", watched)
    return calls


@pytest.mark.parametrize("letter", MIXING)
def test_decoding_repeats_the_same_token(letter: str, blocks: list[tuple[int, int, int]]) -> None:
    architecture = Architecture.from_dict({"backbone": BACKBONE, "layout": letter})
    part = next(part for part, _ in timed_parts(architecture) if part.kind == "mixer")
    run, copies = part_work(part, "decode_ms", 9, Setup(CPU, batch=3))
    assert copies == 2
    assert [call[:2] for call in blocks] == [(8, 0)] * copies
    del blocks[:]
    run()
    run()
    assert [call[:2] for call in blocks] == [(1, 8)] * (2 * copies)
    assert all(call[2] > 0 for call in blocks)


@pytest.mark.parametrize("letter", MIXING)
def test_a_prompt_starts_without_a_cache(letter: str, blocks: list[tuple[int, int, int]]) -> None:
    architecture = Architecture.from_dict({"backbone": BACKBONE, "layout": letter})
    for part, _ in timed_parts(architecture):
        run, _ = part_work(part, "prefill_ms", 5, Setup(CPU))
        del blocks[:]
        run()
        run()
        assert all(call == (5, 0, 0) for call in blocks)


@pytest.mark.parametrize("metric", ["decode_ms", "prefill_ms"])
def test_whole_models_do_the_same(metric: str, blocks: list[tuple[int, int, int]]) -> None:
    architecture = Architecture.from_dict({"backbone": BACKBONE, "layout": "FG", "loop": {"count": 2}})
    run = model_work(architecture, metric, 7, Setup(CPU))
    del blocks[:]
    run()
    run()
    assert [call[:2] for call in blocks] == [(1, 6) if metric == "decode_ms" else (7, 0)] * 8


def test_the_rest_is_a_model_without_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[HybridLM] = []

    class Watched(HybridLM):
        def __init__(self, architecture: Architecture) -> None:
            super().__init__(architecture)
            built.append(self)

    monkeypatch.setattr(timed_work, "HybridLM", Watched)
    architecture = Architecture.from_dict({"backbone": BACKBONE, "layout": "F", "loop": {"count": 3}})
    rest = next(part for part, _ in timed_parts(architecture) if part.layer is None)
    run, copies = part_work(rest, "decode_ms", 1, Setup(CPU))
    run()
    assert copies == 1
    (model,) = built
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {
        "embed", "norm", "head", "loop_gate",
    }  # fmt: skip
    assert model.architecture.loop_count == 3


def test_a_stack_has_more_weights_than_caches_hold_and_at_most_the_model_s_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    architecture = Architecture.from_dict({"backbone": {**BACKBONE, "num_layers": 8}})
    part = next(part for part, _ in timed_parts(architecture) if part.kind == "ffn")
    size = 4 * (3 * 16 * 24 + 16)  # bytes of gate, up, down and norm
    for held, copies in ((size - 1, 1), (2 * size + 1, 3), (100 * size, 8)):
        monkeypatch.setattr(timed_work, "CACHE_BYTES", held)
        assert part_work(part, "decode_ms", 1, Setup(CPU))[1] == copies
