"""Constraints: units, amounts a sampler can follow, and whether a space can meet them at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search_spaces import Constraint, parse_space
from search_spaces.constraints import COMPARISONS
from surgery.architecture.costs import cost
from surgery.architecture.metrics import METRICS
from surgery.config.problems import UserError
from tests.search_spaces.spaces import every_trial, searches, space_of

SEARCH = {
    "hdpl.projections": {"subset": ["q", "gate"]},
    "hdpl.blocks": {"choice": [2, 4]},
    "hdpl.rank": {"choice": [4, 16]},
    "loop.count": {"range": [1, 3]},
}


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(sorted(COMPARISONS)))
def test_amount_is_positive_exactly_when_the_constraint_is_broken(
    value: int, limit: int, comparison: str
) -> None:
    constraint = Constraint(METRICS["params"], None, comparison, limit)
    for number in (value, limit - 1, limit, limit + 1):
        assert (constraint.amount(number) <= 0) == COMPARISONS[comparison](number, limit)


@given(st.integers(1, 10**6), st.lists(st.integers(0, 10**6), min_size=2, unique=True))
def test_amount_grows_with_the_excess(limit: int, result: list[int]) -> None:
    constraint = Constraint(METRICS["params"], None, "<=", limit)
    amounts = [constraint.amount(value) for value in sorted(result)]
    assert amounts == sorted(amounts)
    assert len(set(amounts)) == len(amounts)
    assert constraint.amount(2 * limit) == 1.0  # as a fraction of the limit


def test_violations_name_what_is_broken() -> None:
    limits = ["params <= 70k", "cache_bytes@64 <= 64KiB", "decode_flops@4k >= 1"]
    space = space_of(SEARCH, constraints=limits)
    for _, architecture in every_trial(space):
        broken = space.violations(architecture)
        values = space.constraint_values(architecture)
        assert len(values) == 3
        assert [item.constraint.amount(item.value) for item in broken] == [
            value for value in values if value > 0
        ]
        for item in broken:
            assert item.value == cost(architecture, item.constraint.name) > item.constraint.limit
            assert str(item.constraint) in limits
            assert item.constraint.name in str(item)
    assert space.constraints[1].limit == 64 * 1024
    assert space.constraints[2].name == "decode_flops@4000"


@given(searches(), st.sampled_from(["params", "cache_bytes@100", "decode_flops@100", "train_flops@100"]))
@settings(max_examples=25)
def test_the_range_of_a_cost_is_that_of_all_architectures(search: dict[str, Any], metric: str) -> None:
    space = space_of(search)
    assume(space.size().count <= 1500)
    costs = [cost(architecture, metric) for _, architecture in every_trial(space)]
    low, median, high = space.cost_range(metric, samples=20)
    assert (low, high) == (min(costs), max(costs))
    assert low <= median <= high


@given(searches(), st.sampled_from(["params", "decode_flops@100"]), st.data())
@settings(max_examples=25)
def test_a_constraint_is_refused_exactly_when_no_architecture_meets_it(
    search: dict[str, Any], metric: str, data: st.DataObject
) -> None:
    costs = sorted({cost(arch, metric) for _, arch in every_trial(space_of(search))})
    allowed = data.draw(st.sampled_from(costs))
    space_of(search, constraints=[f"{metric} <= {allowed}"])
    space_of(search, constraints=[f"{metric} >= {allowed}"])
    for impossible in (f"{metric} < {costs[0]}", f"{metric} > {costs[-1]}"):
        with pytest.raises(UserError, match="reaches from"):
            space_of(search, constraints=[impossible])


def test_constraints_that_only_clash_together_are_told_together() -> None:
    once = [
        cost(arch, "decode_flops@64") for _, arch in every_trial(space_of(SEARCH)) if arch.loop_count == 1
    ]
    limits = ["cache_bytes@64 <= 32KiB", f"decode_flops@64 > {max(once)}"]  # one pass only, and more than one
    with pytest.raises(UserError, match="each can be met by itself, but none of 2000") as caught:
        space_of(SEARCH, constraints=limits)
    assert caught.value.problems[0].field == "constraints"


def test_feasible_share() -> None:
    assert space_of(SEARCH).feasible_share(samples=50) == 1
    share = space_of(SEARCH, constraints=["cache_bytes@64 <= 32KiB"]).feasible_share(samples=300)
    assert 0.2 < share < 0.5  # one of three loop counts


def test_measured_metrics_have_no_range() -> None:
    with pytest.raises(ValueError, match="measured by training"):
        space_of(SEARCH).cost_range("val_loss")


def test_a_limit_that_few_architectures_meet_is_not_taken_for_impossible() -> None:
    """12,016 parameters take one combination of rank, blocks and projections: no one change leads there."""
    text = """
backbone: {vocab_size: 512, dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 32, tie_embeddings: true}
search:
  hdpl.projections: {subset: [q, k, gate, up]}
  hdpl.blocks: {choice: [1, 2, 4]}
  hdpl.rank: {choice: [2, 4, 8]}
  hdpl.kl: mean
  loop.count: {choice: [1, 2]}
constraints: ["params <= 12.05k"]
objectives: {val_loss: min, params: min}
proxy: {tokens: 8192, seq_len: 32, batch_tokens: 256}
"""
    space = parse_space(text)
    assert space.cost_range("params")[0] <= 12_050


def test_thousands_of_constraints_are_refused_at_once() -> None:
    space_of(SEARCH, constraints=[f"params <= {number}M" for number in range(1, 101)])
    with pytest.raises(UserError, match=r"15,000 constraints.*must be at most 100"):
        space_of(SEARCH, constraints=[f"params <= {number}M" for number in range(1, 15_001)])
