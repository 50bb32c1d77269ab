"""Timed work is what a model does: its blocks, caches of the right length, and the same in every call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from studies.latency import work as timed_work
from studies.latency.work import Setup, model_work, part_work
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
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
    architecture = Architecture.from_dict({"backbone": BACKBONE, "layout": letter, "loop": {"count": 2}})
    part = next(part for part, _ in timed_parts(architecture) if part.kind == "mixer")
    run, number = part_work(part, "decode_ms", 9, Setup(CPU, batch=3))
    assert number % 2 == 0  # passes
    assert [call[:2] for call in blocks] == [(8, 0)]  # equal copies start from equal states
    del blocks[:]
    run()
    run()
    assert [call[:2] for call in blocks] == [(1, 8)] * (2 * number)
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


def test_a_stack_is_as_large_as_the_model_or_larger_than_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = {**BACKBONE, "num_layers": 8}
    setup, length = Setup(CPU), 64
    wide = Architecture.from_dict({"backbone": backbone, "layout": "F", "loop": {"count": 2}})
    narrow = Architecture.from_dict({"backbone": backbone, "ffn": [{"layers": "0-7", "dim": 8}]})
    for architecture in (wide, narrow):
        for part, _ in timed_parts(architecture):
            if part.layer is None:
                continue
            _, number = part_work(part, "decode_ms", length, setup)
            copies = number // part.passes
            mixes = part.kind == "mixer"
            weights = 16 + (4 * 16 * 16 if mixes else 3 * 16 * part.layer.ffn_dim)  # with the norm's
            states = 2 * 16 * length * part.passes if mixes else 0  # keys and values
            whole = part.weights_beside + 8 * states
            assert copies == -(-whole // (weights + states)) > 1
            assert part_work(part, "prefill_ms", length, setup)[1] == timed_work.PREFILLED
    monkeypatch.setattr(timed_work, "CACHE_BYTES", 1)
    assert part_work(part, "decode_ms", length, setup)[1] == 1


def test_the_weights_of_the_dense_model_are_nearly_right() -> None:
    for sizes in (
        {},
        {"ffn_dim": 26},
        {"tie_embeddings": True},
        {"num_kv_heads": 1},
        {"dim": 64},
    ):
        architecture = Architecture.from_dict({"backbone": {**BACKBONE, **sizes}})
        part, _ = timed_parts(architecture)[1]
        assert part.weights_beside == pytest.approx(cost(architecture, "params"), rel=0.15)
