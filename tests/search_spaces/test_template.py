"""Every space that `nas init` can write is valid, and says what was answered."""

from __future__ import annotations

import itertools

import pytest

from search_spaces import parse_space
from search_spaces.template import SIZES, WORDS, Answers, space_text
from surgery.mixers import MIXER_WORDS


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("hdpl", [False, True])
@pytest.mark.parametrize("loops", [False, True])
def test_every_answer_gives_a_valid_space(size: str, hdpl: bool, loops: bool) -> None:
    for count in (0, 1, 2, len(WORDS) - 1, len(WORDS)):
        for mixers in itertools.combinations(WORDS, count):
            space = parse_space(space_text(Answers("x", size, mixers, hdpl, loops, 2048, ["params <= 60M"])))
            assert space.warnings() == []
            assert [item.name for item in space.objectives] == ["val_loss", "params", "decode_flops@2048"]
        drawn = [space.sample_random(seed) for seed in range(20)]
        letters = set("".join(item.layout for item in drawn))
        assert letters <= {"F"} | {letter for letter, word in MIXER_WORDS.items() if word in mixers}
        assert (max(item.loop_count for item in drawn) > 1) == loops
        layers = [layer for item in drawn for layer in item.layers]
        operators = {operator.name for layer in layers for operator in layer.projections.values()}
        assert ("hdpl" in operators) == hdpl
