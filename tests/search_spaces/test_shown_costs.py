"""Costs of an architecture are shown at the contexts that its space is about."""

from __future__ import annotations

import pytest

from search_spaces import parse_space
from search_spaces.shown_costs import shown_costs

SPACE = """
name: small
backbone: {vocab_size: 512, dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 32, tie_embeddings: true}
search:
  loop.count: {range: [1, 3]}
proxy: {tokens: 2048, seq_len: 32, batch_tokens: 512, rungs: [0.5, 1.0], eval_tokens: 1024}
data: {corpus: builtin, tokenizer: "bpe:512"}
"""


@pytest.mark.parametrize(
    ("text", "contexts"),
    [
        ("objectives: {val_loss: min, params: min}", {32}),  # that of the training sequences
        ("objectives: {val_loss: min, decode_flops@64: min}", {64}),
        (
            'objectives: {val_loss: min, decode_flops@64: min}\nconstraints: ["cache_bytes@128 <= 1MiB"]',
            {64, 128},
        ),
    ],
)
def test_costs_are_at_the_contexts_of_objectives_and_constraints(text: str, contexts: set[int]) -> None:
    names = shown_costs(parse_space(SPACE + text, "small.yaml"))
    assert {"params", "params_nonembedding"} < set(names)
    assert {int(name.split("@")[1]) for name in names if "@" in name} == contexts
    if len(contexts) == 2:
        assert [name for name in names if name.startswith(("decode_flops", "cache_bytes"))] == [
            "decode_flops@64", "cache_bytes@128",
        ]  # fmt: skip
