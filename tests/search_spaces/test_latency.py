"""Latencies as objectives and limits of a space: nothing is measured while a space is read or shown."""

from __future__ import annotations

import random
from typing import Any

import pytest

from search_spaces import SearchSpace, parse_space
from search_spaces.latency import LatencySettings
from search_spaces.summary import describe_architecture, draw, summarise
from search_spaces.timed_blocks import space_parts
from surgery.architecture.costs import cost_in_steps
from surgery.architecture.timed_parts import timed_parts
from surgery.config.problems import UserError
from tests.invented_times import invented_times
from tests.scored_study import MODEL
from tests.search_spaces.spaces import space_of

SEARCH = {"mixers.ratio": {"full": [0, 2], "gdn": [0, 2]}, "loop.count": {"choice": [1, 2]}}
OBJECTIVES = {"val_loss": "min", "decode_ms@128": "min"}
PRETRAINED = """
model: {{name: smol, weights: "0123", architecture: {model}}}
search:
  layers.mixer: {{choice: [keep, G, W: {{window: 8}}, none]}}
  layers.ffn: {{choice: [keep, dim: 50%, none]}}
constraints: ["decode_ms@256 <= 60%", "prefill_ms@64 < 9.5ms", "params <= 90%"]
objectives: {{kl: min, decode_ms@256: min}}
"""


def pretrained(text: str = PRETRAINED) -> SearchSpace:
    return parse_space(text.format(model=MODEL.to_dict()))


def problem(**sections: Any) -> str:
    with pytest.raises(UserError) as error:
        space_of(SEARCH, **sections)
    return str(error.value)


def test_a_latency_is_known_before_training_but_not_before_it_is_measured() -> None:
    space = space_of(SEARCH, objectives=OBJECTIVES, constraints=["prefill_ms@64 <= 5"])
    assert [item.measured for item in space.objectives] == [True, False]
    assert space.timed_metrics == ("decode_ms@128", "prefill_ms@64")
    architecture = space.sample_random(0)
    with pytest.raises(UserError, match="no blocks are timed yet"):
        space.cost(architecture, "decode_ms@128")
    assert space.violations(architecture) == []
    timed = space.with_times(invented_times())
    value = cost_in_steps(architecture, "prefill_ms@64", invented_times())
    (violation,) = timed.violations(architecture)
    assert violation.value == value > 5_000_000
    assert str(violation) == f"prefill_ms@64 is {value / 1e6:#.3g}, violates prefill_ms@64 <= 5"
    assert timed.constraint_values(architecture) == pytest.approx((value / 5e6 - 1,))
    assert timed.cost(architecture, "decode_ms@128") == pytest.approx(
        cost_in_steps(architecture, "decode_ms@128", invented_times()) / 1e6
    )


def test_a_space_is_shown_without_a_device() -> None:
    space = space_of(SEARCH, objectives=OBJECTIVES, constraints=["prefill_ms@64 <= 0"])
    shown = summarise(space, 5)
    assert shown["latency"] == {"batch": 1}
    assert shown["feasible_share"] == 1.0
    assert not any("_ms" in name for name in shown["costs"])
    assert describe_architecture(space, draw(space, 1, 0)[0])["feasible"]
    with pytest.raises(ValueError, match="is measured on a device"):
        space.cost_range("decode_ms@128")
    assert summarise(space_of(SEARCH), 5)["latency"] is None


def test_limits_are_shares_of_the_model_s_own_latency() -> None:
    space = pretrained()
    times = invented_times()
    timed = space.with_times(times)
    own = cost_in_steps(MODEL, "decode_ms@256", times)
    assert [item.limit for item in timed.constraints[:2]] == [round(0.6 * own), 9_500_000]
    assert timed.constraints[1].interval == (None, 9_499_999)
    # what a study keeps of a space does not depend on a device
    exact = [item.exact for item in timed.constraints]
    assert exact[:2] == ["decode_ms@256 <= 60%", "prefill_ms@64 < 9.5"]
    assert exact == [item.exact for item in space.constraints]
    assert (timed.digest, timed.diff(space)) == (space.digest, [])
    assert timed.constraint_values(MODEL)[0] == pytest.approx(1 / 0.6 - 1)


def test_latencies_of_designs_add_up_over_parts() -> None:
    space, times = pretrained(), invented_times()
    replacements = space.replacements
    assert replacements is not None
    for name in space.timed_metrics:
        rows = replacements.differences(name, times)
        base = cost_in_steps(replacements.model, name, times)
        low, high = replacements.cost_range(name, times)
        for seed in range(20):
            design = replacements.random(random.Random(seed))
            choice = replacements.choice(design)
            assert choice is not None
            total = base + sum(
                row[part.labels.index(choice[part.name])]
                for part, row in zip(replacements.parts, rows, strict=True)
            )
            assert low <= total == cost_in_steps(design, name, times) <= high


def test_every_block_of_a_pretrained_model_s_designs_is_known_beforehand() -> None:
    space = pretrained()
    known = {part.name for part in space_parts(space)}
    assert len(known) == 1 + 3 + 2  # the rest, three mixers, two widths
    for seed in range(30):
        assert {part.name for part, _ in timed_parts(space.sample_random(seed))} <= known


def test_a_small_space_s_blocks_are_known_beforehand() -> None:
    space = space_of(SEARCH, objectives=OBJECTIVES)
    known = [part.name for part in space_parts(space)]
    assert len(set(known)) == len(known) == 2 * 2 + 1 + 2  # in one pass or two
    for seed in range(1000, 1100):
        assert {part.name for part, _ in timed_parts(space.sample_random(seed))} <= set(known)


def test_settings_belong_to_a_latency() -> None:
    assert space_of(SEARCH, objectives=OBJECTIVES, latency={"batch": 8}).latency == LatencySettings(8)
    assert space_of(SEARCH).to_dict().keys() == space_of(SEARCH).to_dict().keys() - {"latency"}
    one, two = (space_of(SEARCH, objectives=OBJECTIVES, latency={"batch": size}) for size in (1, 2))
    assert [str(item) for item in one.diff(two)] == ["latency.batch: 1 -> 2"]
    assert "no objective or constraint is a latency" in problem(latency={"batch": 8})
    assert "must be at least 1" in problem(objectives=OBJECTIVES, latency={"batch": 0})
    assert "is not a field here" in problem(objectives=OBJECTIVES, latency={"batches": 2})


def test_mistakes() -> None:
    assert "would prefer the worse decode_ms" in problem(objectives={"val_loss": "min", "decode_ms@8": "max"})
    assert "needs a context" in problem(objectives={"val_loss": "min", "decode_ms": "min"})
    assert "no quality is optimised" in problem(objectives={"decode_ms@8": "min"})
    limits = ["decode_ms@8 <= 50%"]
    assert "there is no pretrained model" in problem(objectives=OBJECTIVES, constraints=limits)
    assert "must be a number of ms" in problem(objectives=OBJECTIVES, constraints=["decode_ms@8 <= 5 s"])
    conflict = ["decode_ms@8 <= 5", "decode_ms@8 >= 6"]
    assert "conflicts with" in problem(objectives=OBJECTIVES, constraints=conflict)
