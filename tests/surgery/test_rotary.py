"""Rotary tables against transformers' own, for every scaling that is carried."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from surgery.ops.rotary import RotaryTables, rotary_tables, rotate
from tests.models import architecture
from tests.strategies import ROPE_SCALINGS, read_backbone


def compare(scaling: dict[str, Any] | None, head_dim: int, theta: float, length: int) -> None:
    backbone = read_backbone({
        "vocab_size": 5, "dim": 8, "num_layers": 1, "num_heads": 2, "ffn_dim": 8, "head_dim": head_dim,
        "rope_theta": theta, "rope_scaling": scaling,
    })  # fmt: skip
    parameters = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
    config = LlamaConfig(
        hidden_size=8, num_attention_heads=2, head_dim=head_dim, rope_parameters=parameters,
        max_position_embeddings=4 * length,
    )  # fmt: skip
    positions = torch.tensor([[0, 1, 2, 7, length // 2, length - 1]])
    expected = LlamaRotaryEmbedding(config)(torch.zeros(1, 1, 8), positions)
    for ours, theirs in zip(rotary_tables(backbone, positions), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("scaling", ROPE_SCALINGS)
@pytest.mark.parametrize("head_dim", [2, 8, 64])
def test_equals_transformers(scaling: dict[str, Any] | None, head_dim: int) -> None:
    compare(scaling, head_dim, 10000.0, 128)


HEAD_DIMS = st.sampled_from([4, 6, 32, 64, 128])
THETAS = st.sampled_from([1e3, 1e4, 5e5, 1e6])


@given(st.floats(1, 64), st.integers(1, 16), st.integers(1, 16), st.integers(16, 8192), HEAD_DIMS, THETAS)
def test_llama3_equals_transformers(
    factor: float, low: int, more: int, original: int, head_dim: int, theta: float
) -> None:
    compare({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": low + more,
        "original_max_position_embeddings": original,
    }, head_dim, theta, 512)  # fmt: skip


YARN_OPTIONS = st.fixed_dictionaries({}, optional={
    "beta_fast": st.floats(2, 64), "beta_slow": st.floats(0.5, 2), "truncate": st.booleans(),
    "attention_factor": st.floats(0.5, 2), "mscale": st.floats(0.5, 2), "mscale_all_dim": st.floats(0.5, 2),
})  # fmt: skip


@given(st.floats(1, 64), st.integers(64, 8192), HEAD_DIMS, THETAS, YARN_OPTIONS)
def test_yarn_equals_transformers(
    factor: float, original: int, head_dim: int, theta: float, options: dict[str, Any]
) -> None:
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **options}
    compare(scaling, head_dim, theta, 512)


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    backbone = read_backbone(
        {"vocab_size": 5, "dim": 8, "num_layers": 1, "num_heads": 1, "ffn_dim": 8, "head_dim": 8}
    )
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def at(x: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(x, rotary_tables(backbone, torch.tensor([[position]])))

    torch.testing.assert_close(at(q, 77).norm(), q.norm(), rtol=1e-6, atol=0)
    torch.testing.assert_close(at(q, 0), q)
    near, far = ((at(q, p + 5) * at(k, p)).sum() for p in (0, 400))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spans", [[(0, 7), (0, 7)], [(0, 5), (5, 6), (6, 7), (7, 20)], [(3, 9), (0, 30)]])
def test_kept_tables_are_those_of_the_positions(spans: list[tuple[int, int]]) -> None:
    backbone = architecture().backbone
    tables = RotaryTables(backbone)
    with torch.inference_mode():
        for start, stop in spans:
            wanted = rotary_tables(backbone, torch.arange(start, stop)[None])
            for ours, theirs in zip(tables(start, stop, torch.device("cpu")), wanted, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    kept = tables(0, 4, torch.device("cpu"))
    assert not kept[0].is_inference()  # made while only reading, used in training
    assert kept[0].data_ptr() == tables(0, 3, torch.device("cpu"))[0].data_ptr()
