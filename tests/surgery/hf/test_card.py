"""Costs on a model card are at a context that the model has."""

from __future__ import annotations

from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.hf.card import cost_table, costs


def dense(context: int) -> Architecture:
    backbone = {"vocab_size": 64, "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64}
    architecture = Architecture.from_dict({"backbone": backbone})
    return architecture.with_backbone(max_position_embeddings=context)


def test_a_short_context_is_the_models_own() -> None:
    short = dense(256)
    assert list(costs(short)) == ["params", "params_nonembedding", "decode_flops@256", "cache_bytes@256"]
    assert costs(short)["decode_flops@256"] == cost(short, "decode_flops@256")


def test_a_long_context_is_cut_to_a_usual_one() -> None:
    assert "cache_bytes@4096" in costs(dense(131_072))


def test_two_models_are_compared_at_one_context() -> None:
    table = cost_table(dense(512), dense(4096))
    assert "decode_flops@512" in table
    assert "@4096" not in table
    assert "+0.0%" in table
