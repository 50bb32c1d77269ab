"""Pair terms against the closed form |sum of features|^2, and against KL divergences of softmax."""

from __future__ import annotations

import numpy as np
import pytest

from studies.selection.interactions import SecondOrder, pair_terms, rescaled
from studies.selection.problem import Selection

SIZES = (3, 2, 4, 3)


def features_of(seed: int, dimensions: int = 6) -> list[np.ndarray]:
    """Return features whose first row, of keep, is 0."""
    random = np.random.default_rng(seed)
    parts = [random.normal(size=(size, dimensions)) for size in SIZES]
    for part in parts:
        part[0] = 0
    return parts


def model_of(features: list[np.ndarray]) -> SecondOrder:
    scores = [(part**2).sum(axis=1) for part in features]
    costs = {"a": [-np.arange(len(part)) for part in features]}
    return SecondOrder(Selection(scores, costs, {"a": 100}), pair_terms(features))


def test_a_choice_is_predicted_as_the_length_of_the_sum() -> None:
    features = features_of(0)
    model = model_of(features)
    for choice in ((0, 0, 0, 0), (1, 0, 0, 0), (2, 1, 3, 2), (0, 1, 2, 0)):
        total = np.sum([part[option] for part, option in zip(features, choice, strict=True)], axis=0)
        assert model.predict(choice) == pytest.approx(float(total @ total))


def test_rescaled_features_have_the_measured_lengths_and_their_directions() -> None:
    features = features_of(4)
    random = np.random.default_rng(0)
    scores = [np.r_[0.0, random.exponential(size=size - 1)] for size in SIZES]
    scores[2][1:3] = np.inf, -0.01
    scaled = rescaled(features, scores)
    assert (scaled[2][1:3] == 0).all()
    for rows, part, score in zip(scaled, features, scores, strict=True):
        lengths = (rows**2).sum(axis=1)
        usable = (score > 0) & np.isfinite(score)
        assert lengths[usable] == pytest.approx(score[usable])
        cosines = (rows * part).sum(axis=1)[usable] / np.sqrt(score[usable] * (part**2).sum(axis=1)[usable])
        assert cosines == pytest.approx(np.ones(len(cosines)))


def test_whitened_moves_of_logits_predict_their_joint_divergence() -> None:
    """KL(p || softmax(logits + d)), d the sum of small moves, against the features that the module names."""
    random = np.random.default_rng(5)
    logits = random.normal(size=(20, 9))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    moves = 0.02 * random.normal(size=(3, 20, 9)) + 0.02 * random.normal(size=(20, 9))
    # F is d centred under p, weighted by sqrt(p / 2), and averaged over tokens
    centred = moves - (moves * p).sum(axis=2, keepdims=True)
    rows = (centred * np.sqrt(p / (2 * len(p)))).reshape(3, -1)
    features = [np.stack([np.zeros_like(row), row]) for row in rows]

    def divergence(move: np.ndarray) -> float:
        moved = logits + move
        return float(
            (p * (np.log(p) - moved + np.log(np.exp(moved).sum(axis=1, keepdims=True)))).sum(1).mean()
        )

    model = model_of(features)
    assert model.predict((1, 0, 0)) == pytest.approx(divergence(moves[0]), rel=0.03)
    assert model.predict((1, 1, 1)) == pytest.approx(divergence(moves.sum(axis=0)), rel=0.05)
    alone = sum(divergence(move) for move in moves)
    assert alone < 0.75 * divergence(moves.sum(axis=0))
