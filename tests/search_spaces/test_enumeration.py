"""Every architecture of a finite space, and each of them once."""

from __future__ import annotations

import pytest

from search_spaces import ReplayTrial, SearchSpace, parse_space
from search_spaces.enumeration import every_architecture
from surgery.config.problems import UserError

SPACE = """
backbone: {vocab_size: 300, dim: 16, num_layers: 3, num_heads: 2, ffn_dim: 32}
search:
  mixers.ratio: {full: [0, 1], gdn: [0, 1], window: [0, 1]}
  mixers.placement: {choice: [interleave, front]}
  mixers.window.window: {choice: [4, 8]}
  loop.count: {range: [1, 2]}
  loop.windows: {choice: [none, [4, full]]}
  loop.span: {choice: [all, "1--1"]}
  hdpl.projections: {subset: [gate]}
  hdpl.blocks: 2
  hdpl.rank: {choice: [2, 4]}
  hdpl.kl: mean
  hdpl.kl_weight: KL
objectives: {val_loss: min, params: min}
"""


def space(kl_weight: str = "0.001") -> SearchSpace:
    return parse_space(SPACE.replace("KL", kl_weight))


def test_it_holds_what_chance_finds_and_nothing_else() -> None:
    finite = space()
    everything = {arch.hash for _, arch in every_architecture(finite)}
    assert {finite.sample_random(seed).hash for seed in range(9000)} == everything


def test_each_once_with_parameters_that_give_it() -> None:
    finite = space()
    result = list(every_architecture(finite))
    hashes = [arch.hash for _, arch in result]
    assert len(set(hashes)) == len(hashes)
    for params, arch in result:
        trial = ReplayTrial(params)
        assert finite.sample(trial).hash == arch.hash
        assert trial.params == params  # none is missing, none has no effect


def test_a_continuum_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        list(every_architecture(space("{log: [1e-5, 1e-1]}")))
    assert [problem.field for problem in caught.value.problems] == ["hdpl.kl_weight"]
