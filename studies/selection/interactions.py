"""Interactions: replacements change what others cost in quality, so that scores are not additive.

A replacement i moves the model's logits by d_i. To second order KL(p || softmax(logits + d)) is half the
variance of d under p, which is |F|^2 for F = sqrt(p / 2) (d - E_p d), d whitened by the Fisher information;
over several tokens, |F|^2 is their mean. Where moves add up,

    KL(i, j, ...) = |F_i + F_j + ...|^2 = sum_i |F_i|^2 + 2 sum_(i < j) F_i . F_j

so that the scores |F_i|^2 are measured alone, and each pair adds 2 F_i . F_j: above 0 where both replacements
err the same way. Rows F_i may be random sketches of the moves, whose products are unbiased.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from studies.selection.problem import Array, Selection


def pair_terms(features: Sequence[Array]) -> Array:
    """Return (options, options) values 2 F_i . F_j, symmetric, 0 between options of the same part.

    Options are numbered through, part by part.

    Args:
        features: per part, (options, features); |row|^2 is about the option's score in nats/token. The row
            of option 0 is 0.
    """
    rows = np.concatenate([np.asarray(part, dtype=np.float64) for part in features])
    parts = np.repeat(np.arange(len(features)), [len(part) for part in features])
    terms = 2 * rows @ rows.T
    terms[parts[:, None] == parts[None, :]] = 0
    return np.asarray(terms)


def rescaled(features: Sequence[Array], scores: Sequence[Array]) -> list[Array]:
    """Return features with the same directions, whose squared lengths are the measured scores.

    The second order is that of small moves; a large one's length is off, its direction less so. Rows of
    length 0 and those of scores that are not above 0 and finite become 0.
    """
    result = []
    for rows, score in zip(features, scores, strict=True):
        lengths = (np.asarray(rows, dtype=np.float64) ** 2).sum(axis=1)
        usable = (lengths > 0) & (score > 0) & np.isfinite(score)
        factor = np.sqrt(np.where(usable, score, 0) / np.where(usable, lengths, 1))
        result.append(rows * factor[:, None])
    return result


class SecondOrder:
    """Predicts the score of a choice from those of its options and the terms of all their pairs.

    Attributes:
        scores: (options,), numbered through part by part.
        terms: (options, options), symmetric, 0 within a part.
    """

    def __init__(self, selection: Selection, terms: Array) -> None:
        """Take the scores of a selection, and the terms of `pair_terms`."""
        self.selection = selection
        self.scores = np.concatenate(selection.scores)
        self.terms = terms
        self.starts = np.concatenate([[0], np.cumsum(selection.sizes)])[:-1]
        assert terms.shape == (len(self.scores), len(self.scores))

    def predict(self, choice: Sequence[int]) -> float:
        """Return the predicted score in nats/token."""
        rows = self.starts + np.asarray(choice)
        return float(self.scores[rows].sum() + self.terms[np.ix_(rows, rows)].sum() / 2)
