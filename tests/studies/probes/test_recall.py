"""The recall probe: sequences that can only be answered by looking up, and a training that tells who can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.probes.recall import FILLER, Recall
from studies.probes import train_probe
from studies.probes.recall import sequences
from studies.probes.task import UNSCORED
from studies.training.loop import Progress
from studies.workers.worker import work
from surgery.architecture import Architecture
from tests.studies.conftest import SPACE, MakeStudy

from .small import CPU, RECALL, architecture, space_with, untrained_accuracies


@st.composite
def settings(draw: st.DrawFn) -> Recall:
    pairs, distance = draw(st.integers(1, 12)), draw(st.integers(0, 20))
    return Recall(
        pairs=pairs,
        distance=distance,
        seq_len=3 * pairs + distance + draw(st.integers(0, 40)),
        alphabet=2 * max(2, pairs + draw(st.integers(0, 20))),
        steps=1,
        batch=1,
        lr=1e-3,
    )


SEEDS = st.integers(0, 2**63 - 1)


@given(settings(), SEEDS)
def test_every_answer_is_the_value_shown_with_its_key(chosen: Recall, seed: int) -> None:
    inputs, targets = sequences(chosen, 5, np.random.default_rng(seed))
    assert inputs.shape == targets.shape == (5, chosen.seq_len)
    shown = 2 * chosen.pairs
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        pairs = dict(zip(row[0:shown:2], row[1:shown:2], strict=True))
        assert len(pairs) == chosen.pairs  # no key twice
        asked = {
            position: token for position, token in enumerate(row) if position >= shown and token != FILLER
        }
        assert sorted(asked.values()) == sorted(pairs)
        assert min(asked) >= shown + chosen.distance
        assert {position: answer for position, answer in enumerate(answers) if answer != UNSCORED} == {
            position: pairs[key] for position, key in asked.items()
        }


@given(settings(), SEEDS)
def test_keys_values_and_filler_are_different_tokens(chosen: Recall, seed: int) -> None:
    inputs, targets = sequences(chosen, 5, np.random.default_rng(seed))
    half, shown = chosen.alphabet // 2, 2 * chosen.pairs
    keys, values = inputs[:, 0:shown:2], inputs[:, 1:shown:2]
    assert FILLER < keys.min() <= keys.max() <= half < values.min() <= values.max() <= chosen.alphabet
    # the values stand in the input once, where they are shown: the answers are not given away
    assert (inputs[:, shown:] <= half).all()
    assert (targets != UNSCORED).sum() == 5 * chosen.pairs


@given(settings(), SEEDS)
def test_the_same_seed_gives_the_same_sequences(chosen: Recall, seed: int) -> None:
    first, again = (sequences(chosen, 3, np.random.default_rng(seed)) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_nothing_stays_from_sequence_to_sequence() -> None:
    """A key's value, the order of the questions and their positions are drawn anew for each sequence."""
    chosen = replace(RECALL, seq_len=24)
    inputs, targets = sequences(chosen, 4000, np.random.default_rng(0))
    values = np.where(targets == UNSCORED, 0, targets)
    for key in range(1, 5):
        answers = values[inputs == key]
        counts = np.bincount(answers[answers > 0], minlength=9)[5:]
        assert np.abs(counts / counts.sum() - 1 / 4).max() < 0.04
    asked = (targets != UNSCORED).mean(axis=0)
    assert (asked[:8] == 0).all()
    assert np.abs(asked[8:] - 4 / 16).max() < 0.04
    assert len(np.unique(inputs, axis=0)) > 3990


def test_distance_moves_the_questions_away() -> None:
    """Positions from there on are asked equally; without room left over, the questions fill them."""
    chosen = replace(RECALL, distance=6, seq_len=22)
    _, targets = sequences(chosen, 4000, np.random.default_rng(0))
    asked = (targets != UNSCORED).mean(axis=0)
    assert (asked[:14] == 0).all()
    assert np.abs(asked[14:] - 4 / 8).max() < 0.04
    _, targets = sequences(replace(chosen, seq_len=chosen.shortest), 3, np.random.default_rng(0))
    assert (targets[:, 14:] != UNSCORED).all()


def test_an_untrained_model_guesses() -> None:
    chosen = replace(RECALL, pairs=8, seq_len=24, alphabet=64)
    assert np.mean(untrained_accuracies(chosen)) < 0.08  # 1/65 for a guess, 1/8 for one of the values shown


def test_two_layers_recall_and_one_does_not() -> None:
    """Looking up takes two steps of attention: know the token before, then find the key it was."""
    one, two = (train_probe(architecture(num_layers=layers), RECALL, 0, CPU) for layers in (1, 2))
    assert two > 0.95
    assert one < 0.6


def test_the_same_seed_the_same_accuracy() -> None:
    chosen = replace(RECALL, steps=20)
    first = train_probe(architecture(), chosen, 0, CPU)
    torch.rand(7)
    seen: list[Progress] = []
    again = train_probe(architecture(), chosen, 0, CPU, lambda: False, seen.append)
    other = train_probe(architecture(), chosen, 1, CPU)
    assert first == again != other
    assert [item.step for item in seen] == list(range(1, 21))
    assert seen[-1].tokens == chosen.tokens


def test_the_vocabulary_of_the_text_does_not_matter() -> None:
    chosen = replace(RECALL, steps=10)
    small, large = (train_probe(architecture(vocab_size=size), chosen, 0, CPU) for size in (64, 4096))
    assert small == large


def test_the_probe_does_not_change_the_text_training(
    make_study: MakeStudy, quiet: Callable[[str], None]
) -> None:
    losses = []
    for name, text in (("with", space_with("recall")), ("without", SPACE)):
        study = make_study(name, text=text.replace("eval_tokens: 1024", "eval_tokens: 1024, seeds: 2"))
        work(study, target=1, device="cpu", log=quiet)
        losses.append(study.record(0).metrics["val_loss"])
        assert ("recall" in study.record(0).metrics) == (name == "with")
    assert losses[0] == losses[1]


def test_each_seed_has_a_probe_of_its_own(
    make_study: MakeStudy, quiet: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def fake(architecture: Architecture, settings: Recall, seed: int, *_: object) -> float:
        seeds.append(seed)
        return 0.25 * len(seeds)

    monkeypatch.setattr("studies.workers.worker.train_probe", fake)
    study = make_study(text=space_with("recall").replace("eval_tokens", "seeds: 2, eval_tokens"))
    work(study, target=1, device="cpu", log=quiet)
    record = study.record(0)
    assert tuple(seeds) == record.seeds
    assert len(set(seeds)) == 2
    assert record.metrics["recall"] == 0.375
