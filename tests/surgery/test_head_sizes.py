"""Widths of linear mixers, and the options that spell them."""

from __future__ import annotations

from typing import Any

import pytest

from surgery.mixers import MIXERS
from surgery.mixers.softmax import attention_projections
from tests.strategies import option_sets, read_backbone

LETTERS = ["R", "H"]
SPELLINGS = ("key_ratio", "expand_v", "heads")  # options of which several give the same sizes
WHOLE = {  # as many key heads as query heads
    "HDPL 512": {"dim": 512, "num_heads": 8, "head_dim": 64},
    "LT2 1024": {"dim": 1024, "num_heads": 16, "head_dim": 64},
    "SmolLM2 1.7B": {"dim": 2048, "num_heads": 32, "head_dim": 64},
}
SMALL = [
    {"dim": 1, "num_heads": 12, "head_dim": 2}, {"dim": 24, "num_heads": 4, "head_dim": 6},
    {"dim": 64, "num_heads": 2, "head_dim": 40}, {"dim": 512, "num_heads": 8, "head_dim": 64},
]  # fmt: skip


def backbone_of(sizes: dict[str, int]) -> Any:
    return read_backbone({"vocab_size": 5, "num_layers": 1, "ffn_dim": 8, **sizes})


def weights(letter: str, backbone: Any, options: dict[str, Any]) -> int:
    """Weights of the linear maps, of which each is two FLOPs."""
    spec = MIXERS[letter]
    pairs = spec.projections(backbone, options).values()
    return sum(d_in * d_out for d_in, d_out in pairs) + spec.own_flops(backbone, options) // 2


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("name", WHOLE)
def test_default_sizes_match_the_attention_they_replace(letter: str, name: str) -> None:
    backbone = backbone_of(WHOLE[name])
    defaults = {option: schema.default for option, schema in MIXERS[letter].options.items()}
    target = sum(d_in * d_out for d_in, d_out in attention_projections(backbone).values())
    assert abs(weights(letter, backbone, defaults) / target - 1) < 0.02
    for steps in range(1, 40):  # none that `key_ratio` may give is nearer
        other = defaults | {"key_ratio": min(4.0, 8 * steps * backbone.num_heads / backbone.dim)}
        assert abs(weights(letter, backbone, defaults) - target) <= abs(
            weights(letter, backbone, other) - target
        )


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("sizes", SMALL, ids=str)
def test_canonical_options_are_allowed_stable_and_one_for_each_model(
    letter: str, sizes: dict[str, int]
) -> None:
    spec, backbone = MIXERS[letter], backbone_of(sizes)
    spelled: dict[str, dict[str, Any]] = {}
    for options in option_sets(spec.options):
        canonical = spec.canonical(backbone, options)
        for name, value in canonical.items():
            assert spec.options[name].read(value) == value
        assert spec.canonical(backbone, canonical) == canonical
        for measured in (spec.projections, spec.own_params, spec.own_flops):
            assert measured(backbone, canonical) == measured(backbone, options)
        assert spec.mixing_flops(backbone, canonical, 9) == spec.mixing_flops(backbone, options, 9)
        others = {name: value for name, value in options.items() if name not in SPELLINGS}
        sizes_of = spec.projections(backbone, options), spec.mixing_flops(backbone, options, 9)
        assert spelled.setdefault(f"{sizes_of} {others}", canonical) == canonical
