"""The commented spaces of `examples/` are valid and mean what their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces import SearchSpace, load_space
from search_spaces.pretrained import ModelSection
from surgery.architecture import Architecture
from surgery.architecture.costs import cost

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SPACES = ("hdpl-ranks", "hybrid-attention")


def example(name: str, model: ModelSection | None = None) -> SearchSpace:
    return load_space(str(EXAMPLES / f"{name}.yaml"), model)


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_valid_and_can_be_sampled(name: str) -> None:
    space = example(name)
    assert space.name == name
    assert space.warnings() == []
    drawn = [space.sample_random(seed) for seed in range(40)]
    feasible = [item for item in drawn if not space.violations(item)]
    assert len({item.hash for item in feasible}) >= 5


def test_the_limit_on_the_cache_is_a_quarter_of_dense() -> None:
    space = example("hybrid-attention")
    dense = space.baselines["dense"]
    assert cost(dense, "cache_bytes@4096") == 40 * 2**20


def test_the_space_over_a_model_fits_one_and_halves_its_cache() -> None:
    sizes = {"dim": 576, "num_layers": 30, "num_heads": 9, "num_kv_heads": 3, "head_dim": 64, "ffn_dim": 1536}
    model = Architecture.from_dict({"backbone": {"vocab_size": 1000, **sizes}})
    space = example("pretrained-cache", ModelSection("model", "0123", model))
    assert space.warnings() == []
    assert space.replacements is not None
    assert {part.layer for part in space.replacements.parts} == set(range(1, 29))
    (violation,) = space.violations(model)
    assert violation.value == 2 * violation.constraint.limit == cost(model, "cache_bytes@8192")


def test_no_example_is_left_out() -> None:
    spaces = [path.stem for path in EXAMPLES.glob("*.yaml") if "\nname: " in path.read_text(encoding="utf-8")]
    assert sorted(spaces) == sorted([*SPACES, "pretrained-cache"])
