"""The state probe: words over a group, their products, and who gets them right."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from search_spaces.probes.state import GROUPS, State
from studies.probes import accuracy, measure, train_probe
from studies.probes.state import elements, product_table, sequences
from studies.probes.task import UNSCORED

from .small import CPU, STATE, architecture, untrained_accuracies


class Oracle(nn.Module):
    """Multiplies permutations out, of only the last `memory` tokens where that is given."""

    def __init__(self, group: str, memory: int | None = None) -> None:
        super().__init__()
        self.group, self.memory = elements(group), memory

    def forward(self, inputs: Tensor) -> Tensor:
        answers = torch.zeros(*inputs.shape, len(self.group))
        for row, (_, *word) in enumerate(inputs.tolist()):
            for position in range(1, len(word) + 1):
                first = 0 if self.memory is None else max(0, position - self.memory)
                things = list(range(len(self.group[0])))
                for token in word[first:position]:
                    things = [self.group[token][thing] for thing in things]
                answers[row, position, self.group.index(tuple(things))] = 1
        return answers

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


class Guess(Oracle):
    """Any element of the group, all alike."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.rand(*inputs.shape, len(self.group))


def score(model: nn.Module, chosen: State, seed: int = 0) -> float:
    return accuracy(model, chosen, np.random.default_rng(seed), CPU)  # type: ignore[arg-type]


WORDS = st.builds(
    State,
    group=st.sampled_from(list(GROUPS)),
    length=st.integers(2, 12),
    steps=st.just(1),
    batch=st.just(1),
    lr=st.just(1e-3),
)


@given(WORDS, st.integers(0, 2**63 - 1))
def test_every_target_is_the_product_of_the_word_up_to_there(chosen: State, seed: int) -> None:
    inputs, targets = sequences(chosen, 4, np.random.default_rng(seed))
    assert inputs.shape == targets.shape == (4, 1 + chosen.length)
    assert (inputs[:, 0] == chosen.vocab_size - 1).all()
    assert (targets[:, 0] == UNSCORED).all()
    members = elements(chosen.group)
    letters = GROUPS[chosen.group].letters
    for word, answers in zip(inputs[:, 1:].tolist(), targets[:, 1:].tolist(), strict=True):
        for position, answer in enumerate(answers):
            moved = list(range(letters))  # where each thing is after the tokens so far, one at a time
            for token in word[: position + 1]:
                moved = [members[token][thing] for thing in moved]
            assert members[answer] == tuple(moved)
    again = sequences(chosen, 4, np.random.default_rng(seed))
    assert np.array_equal(inputs, again[0])
    assert np.array_equal(targets, again[1])


@pytest.mark.parametrize("name", GROUPS)
def test_the_elements_are_a_group(name: str) -> None:
    members, table = elements(name), product_table(name)
    order = GROUPS[name].order
    assert len(set(members)) == len(members) == order
    assert table.shape == (order, order)
    everything = np.arange(order)
    assert np.array_equal(table[0], everything)  # the first one does nothing
    assert np.array_equal(table[:, 0], everything)
    assert (np.sort(table, axis=0) == everything[:, None]).all()  # each product once in each row and column
    assert (np.sort(table, axis=1) == everything).all()
    assert np.array_equal(table[table], np.take(table, table, axis=1).reshape(order, order, order))
    assert np.array_equal(table, table.T) == (name == "parity")


def test_parity_is_the_sum_of_bits() -> None:
    inputs, targets = sequences(replace(STATE, length=30), 20, np.random.default_rng(0))
    assert np.array_equal(targets[:, 1:], inputs[:, 1:].cumsum(axis=1) % 2)


def test_s5_needs_every_order_of_its_letters() -> None:
    assert math.prod(range(1, 6)) == len(elements("s5")) == 2 * len(elements("a5"))
    assert set(elements("a5")) < set(elements("s5"))


@pytest.mark.parametrize("name", ["parity", "s3", "a5"])
def test_one_token_missed_leaves_every_product_as_likely(name: str) -> None:
    """The other tokens do not help: for each of them, all products come up once."""
    table, order = product_table(name), GROUPS[name].order
    for first, last in list(product(range(order), repeat=2))[:: order // 2]:
        result = {int(table[last, table[missed, first]]) for missed in range(order)}
        assert result == set(range(order))


@pytest.mark.parametrize("name", GROUPS)
def test_products_are_spread_evenly_at_every_place(name: str) -> None:
    order = GROUPS[name].order
    chosen = replace(STATE, group=name, length=6)
    _, targets = sequences(chosen, 200 * order, np.random.default_rng(0))
    assert (targets[:, 1:] != UNSCORED).all()
    for position in range(1, 7):
        counts = np.bincount(targets[:, position], minlength=order)
        assert np.abs(counts - 200).max() < 5 * math.sqrt(200)


@pytest.mark.parametrize("name", GROUPS)
def test_a_perfect_oracle_is_always_right(name: str) -> None:
    assert score(Oracle(name), replace(STATE, group=name, length=10)) == 1.0


@pytest.mark.parametrize("name", GROUPS)
def test_a_guess_is_right_by_chance(name: str) -> None:
    torch.manual_seed(0)
    chosen = replace(STATE, group=name, length=16)
    answers = 512 * chosen.length
    error = math.sqrt(chosen.chance * (1 - chosen.chance) / answers)
    assert score(Guess(name), chosen) == pytest.approx(chosen.chance, abs=4 * error)


@pytest.mark.parametrize("length", [8, 32])
def test_a_short_memory_falls_to_chance_as_words_get_longer(length: int) -> None:
    """k of n positions are right, on the others it guesses: k/n + (1 - k/n)/|group|."""
    chosen = replace(STATE, group="s3", length=length)
    expected = 4 / length + (1 - 4 / length) * chosen.chance
    error = math.sqrt(chosen.chance * (1 - chosen.chance) / (512 * length))
    assert score(Oracle("s3", memory=4), chosen) == pytest.approx(expected, abs=5 * error)


def test_an_untrained_model_guesses() -> None:
    chosen = replace(STATE, group="s4", length=16)
    assert chosen.vocab_size == 25
    assert np.mean(untrained_accuracies(chosen)) == pytest.approx(chosen.chance, abs=0.02)


def test_short_words_of_bits_are_learned_and_long_ones_are_not() -> None:
    """Two layers of attention count a few bits; of a longer word only the first positions are right."""
    assert train_probe(architecture(), STATE, 0, CPU) > 0.95
    assert train_probe(architecture(), replace(STATE, length=48, steps=100), 0, CPU) < 0.7


def test_the_same_seed_the_same_accuracy() -> None:
    chosen = replace(STATE, group="s3", length=8, steps=20)
    first = train_probe(architecture(), chosen, 0, CPU)
    torch.rand(7)
    assert train_probe(architecture(vocab_size=64), chosen, 0, CPU) == first
    assert train_probe(architecture(), chosen, 1, CPU) != first


def test_several_seeds() -> None:
    chosen = replace(STATE, group="s3", steps=10)
    result = measure(architecture(), chosen, (3, 4, 5), CPU)
    assert result.accuracies == tuple(train_probe(architecture(), chosen, seed, CPU) for seed in (3, 4, 5))
    assert result.accuracy == pytest.approx(np.mean(result.accuracies))
    assert result.spread == pytest.approx(np.std(result.accuracies, ddof=1))
    assert measure(architecture(), chosen, (3,), CPU).spread is None
