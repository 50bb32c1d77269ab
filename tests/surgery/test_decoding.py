"""Token by token over 256 tokens equals one pass: each mixer alone, mixed layouts, loops."""

from __future__ import annotations

import random

import pytest
import torch

from surgery.mixers import MIXERS
from tests.models import architecture, build, decode

LENGTH = 256
OPTIONS = {"W": {"window": 48}, "S": {"top_k": 32}}
SIZES = {"dim": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 40}


def mixed(seed: int) -> str:
    """Five layers in random order, no two equal mixers in a row."""
    return "".join(random.Random(seed).sample(sorted(MIXERS), len(MIXERS)))


@pytest.mark.parametrize(
    ("layout", "loops"),
    [(letter, 1) for letter in MIXERS]
    + [(mixed(loops), loops) for loops in (1, 2)]
    + [pytest.param(mixed(loops), loops, marks=pytest.mark.slow) for loops in (3, 4)],
)
def test_decoding_equals_one_pass_over_256_tokens(layout: str, loops: int) -> None:
    torch.manual_seed(loops)
    arch = architecture(layout, num_layers=len(layout), loops=loops, mixers=OPTIONS, **SIZES)
    model = build(arch)
    tokens = torch.randint(37, (2, LENGTH))
    with torch.no_grad():
        whole = model(tokens)
        torch.testing.assert_close(decode(model, tokens, [1] * LENGTH), whole, rtol=1e-4, atol=1e-4)
        pieces = [100, 1, 1, 90, 64]
        torch.testing.assert_close(decode(model, tokens, pieces), whole, rtol=1e-4, atol=1e-4)
